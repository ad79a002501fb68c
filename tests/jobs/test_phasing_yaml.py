"""jobs/phasing.yaml, small: the way that makes the network of the package."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from phaseray.config import load
from phaseray.phasing import network
from phaseray.phasing.problem import PhaseProblem
from phaseray.phasing.weights import load_network
from phaseray.pipeline import schema
from phaseray.pipeline.catalogue import ingest, read_catalogue
from phaseray.pipeline.loading import open_dataset
from phaseray.pipeline.shards import generate
from phaseray.sources import prototypes
from phaseray.sources.leaks import HeldOut
from phaseray.training.ray_train import train

YAML = Path(__file__).parents[2] / "jobs" / "phasing.yaml"
SMALL = (
    "ingest.sources=[{kind: symmetric, count: 40, volume: [60.0, 240.0]}, "
    "{kind: synthetic, count: 20, edge: [4.0, 6.0]}]",
    "ingest.limits.max_volume=250", "ingest.split.val=0.1", "generate.d_min=1.3",
    "train.model={kind: cleaner, width: 16, deep_width: 16, blocks: [1, 1, 1], patterson: true, judges: true}",
    "train.phasing.visits=2", "train.phasing.favour={symmetric: 2}",
    "train.steps_per_epoch=2", "train.epochs=1", "train.warmup_steps=1", "train.batch_voxels=8000",
    "train.threads_per_worker=1",
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def test_the_whole_way(tmp_path, ray_cluster):
    config = load(YAML, SMALL)
    facts = ingest(config, tmp_path / "catalogue")
    assert facts["ok"] > 15
    assert facts["rejected_by_code"].get("held_out", 0) > 0

    held = HeldOut.of(map(prototypes.prototype, range(prototypes.count())))
    table = read_catalogue(tmp_path / "catalogue", None)
    table = table.filter(pc.equal(table["status"], "ok"))
    kept = [c for c, row in zip(schema.crystals(table), table.to_pylist(), strict=True) if row["split"] != "test"]
    assert not [c.id for c in kept if held.shared(c)]

    generate(config, tmp_path / "catalogue", tmp_path / "shards")
    data = open_dataset(tmp_path / "shards")
    train(config.train, data, tmp_path / "model", seed=0, tracking=config.tracking)
    net = load_network(str(tmp_path / "model"))
    crystal = prototypes.prototype(10).with_default_u_iso(0.02)
    problem = PhaseProblem.from_crystal(crystal, 1.5)
    settings = network.Settings(cycles=2, settling=1)
    found = network.solve_starts(problem, 2, 0, network=net, settings=settings)
    assert found.phases.shape[0] == 2
    assert found.cycles == 3
    assert np.isfinite(found.features["misfit"]).all()
    assert np.isfinite(found.features["expected"]).all()
