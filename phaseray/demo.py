"""demo: the whole way on crystals that come with the dependencies."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from phaseray.comparison import evaluate
from phaseray.config import Config, ConfigError
from phaseray.pipeline import cluster
from phaseray.pipeline.catalogue import ingest
from phaseray.pipeline.shards import generate
from phaseray.tables import print_facts, print_scores
from phaseray.training.ray_train import train


def demo(config: Config, out: str | Path) -> dict[str, Any]:
    """Ingest, generate, train every model of `config.models`, evaluate them against zero phases.

    A second run in the same folder goes on where the first stopped, and ends at once if it was done.
    """
    if not config.models:
        raise ConfigError("the demo needs at least one entry under `models`")
    out = Path(out).absolute()
    tracking = config.tracking
    if tracking.uri is None:
        tracking = tracking.model_copy(update={"uri": f"sqlite:///{out / 'mlflow.db'}"})
    began = time.monotonic()
    with cluster.connected(config.ray):
        catalogue = ingest(config, out / "catalogue")
        print_facts("catalogue", catalogue)
        shards = generate(config, out / "catalogue", out / "shards")
        print_facts("shards", shards)
        folders = {}
        for name, training in config.models.items():
            folders[name] = out / "models" / name
            train(
                training, out / "shards", folders[name], seed=config.seed, ray=config.ray, tracking=tracking, name=name
            )
    summary = evaluate(
        config,
        out / "shards",
        folders,
        out / "evaluation",
        title="phaseray demo: the poster's networks on small crystals",
        paragraphs=_story(config, catalogue, shards),
        command="make demo",
    )
    print_scores(summary)
    print(f"MLflow: {tracking.uri}\n        look at it with `make ui`")
    print(f"{time.monotonic() - began:.0f} s in all")
    return summary


def _story(config: Config, catalogue: dict[str, Any], shards: dict[str, Any]) -> list[str]:
    kinds = {
        "prototypes": "the AFLOW prototypes that come with pymatgen",
        "synthetic": "artificial crystals",
        "symmetric": "artificial crystals with symmetry",
        "molecular": "artificial molecular crystals",
        "cif": "CIF files",
        "table": "crystals from tables",
        "amcsd": "minerals of the AMCSD",
        "core_mof": "metal-organic frameworks of CoRE MOF",
    }
    sources = " and ".join(dict.fromkeys(kinds[s.kind] for s in config.ingest.sources))
    split = shards["split"]
    first = (
        f"{catalogue['inputs']:,} crystals ({sources}) were read, {catalogue['rejected']:,} rejected. Their densities "
        f"to {shards['d_min']:g} Å were computed, and {split['train']:,} were used for training, {split['val']:,} for "
        f"choosing the best epoch, and {split['test']:,} for this comparison. No reduced formula is in two of these "
        "sets."
    )
    second = (
        "As in the poster that phaseray starts from, each network is shown the diffraction pattern alone and is asked "
        "for the density in one go. Zero phases are the stop-gap to beat. This is the starting point, not the "
        "destination: the intensities fix neither the origin nor the hand, and the six observations below show what "
        "that does."
    )
    return [first, second]
