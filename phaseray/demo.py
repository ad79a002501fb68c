"""demo: the whole way on crystals that come with the dependencies."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from phaseray.comparison import evaluate
from phaseray.config import Config, ConfigError
from phaseray.evaluation.growth_figure import growth_figure
from phaseray.evaluation.report import Captioned
from phaseray.growing import Grown, examples
from phaseray.phasing.weights import weights_are_shipped
from phaseray.pipeline import cluster
from phaseray.pipeline.catalogue import begin_ingest, ingest
from phaseray.pipeline.shards import generate
from phaseray.pipeline.storage import write_json
from phaseray.tables import print_facts, print_scores
from phaseray.training.ray_train import train

SOLVED_EXAMPLES = (
    "aflow/A3B2_oP20_62_3c_2c-S3Sb2",
    "aflow/A_mP32_14_8e-Se",
    "aflow/A5B8_cI52_217_ce_cg-Cu5Zn8",
)
SOLVED_D_MIN = 1.5


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
    with begin_ingest(config, out / "catalogue") as begun, cluster.connected(config.ray):
        catalogue = ingest(config, out / "catalogue", begun=begun)
        print_facts("catalogue", catalogue)
        shards = generate(config, out / "catalogue", out / "shards")
        print_facts("shards", shards)
        folders = {}
        for name, training in config.models.items():
            folders[name] = out / "models" / name
            train(
                training, out / "shards", folders[name], seed=config.seed, ray=config.ray, tracking=tracking, name=name
            )
    grown = examples(SOLVED_EXAMPLES, SOLVED_D_MIN, config.seed) if weights_are_shipped() else []
    for one in grown:
        print(f"the shipped network at {SOLVED_D_MIN:g} Å: {one.growth.name}, map_cc {one.map_cc:.2f}, "
              f"probability {one.probability:.2f}, {one.seconds:.0f} s")  # fmt: skip
    summary = evaluate(
        config,
        out / "shards",
        folders,
        out / "evaluation",
        title="phaseray demo: the poster's networks on small crystals",
        paragraphs=_story(config, catalogue, shards),
        figures_first=_growth(grown),
        command="make demo",
    )
    summary["solved_examples"] = [
        {"id": g.growth.name, "map_cc": g.map_cc, "probability": g.probability, "seconds": g.seconds} for g in grown
    ]
    write_json(out / "evaluation" / "summary.json", summary)
    print_scores(summary)
    print(f"MLflow: {tracking.uri}\n        look at it with `make ui`")
    print(f"{time.monotonic() - began:.0f} s in all")
    return summary


def _growth(grown: list[Grown]) -> list[Captioned]:
    if not grown:
        return []
    told = "; ".join(
        f"{g.growth.name}: map_cc {g.map_cc:.2f}, given a probability of {g.probability:.2f}" for g in grown
    )
    return [
        Captioned(
            growth_figure([g.growth for g in grown]),
            f"What comes after the poster: the phasing network of the package on AFLOW prototypes that it was not "
            f"trained on, from their amplitudes to {SOLVED_D_MIN:g} Å and random phases. Each row is the start chosen "
            f"without the truth. {told}.",
        )
    ]


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
