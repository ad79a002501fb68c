"""ingest.hold_out: what is trained on shares no formula and no prototype with a test set."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest

from phaseray.config import Config, load
from phaseray.pipeline import schema
from phaseray.pipeline.catalogue import ingest, read_catalogue
from phaseray.pipeline.split import split_of
from phaseray.sources.leaks import HeldOut, leak_keys
from phaseray.sources.prototypes import count, prototype

pytestmark = pytest.mark.timeout(300)


def test_no_training_row_shares_a_key_with_the_tests(ray_cluster, tmp_path: Path) -> None:
    config = load(
        None,
        [
            "ingest.sources=[{kind: prototypes}, {kind: symmetric, count: 12}, {kind: synthetic, count: 5}]",
            "ingest.hold_out=[{source: {kind: prototypes}, part: test}]",
            "ingest.split.test=0.2",
        ],
        Config,
    )
    ingest(config, tmp_path / "catalogue")
    table = read_catalogue(tmp_path / "catalogue")
    tests = [c for c in map(prototype, range(count())) if split_of(c.reduced_formula, config.ingest.split) == "test"]
    held_out = HeldOut.of(tests)
    kept = table.filter(pc.and_(pc.equal(table["status"], "ok"), pc.not_equal(table["split"], "test")))
    for crystal in schema.crystals(kept):
        assert not held_out.keys & set(leak_keys(crystal)), crystal.id
    codes = table["code"].to_pylist()
    assert codes.count("held_out") > 10
    reasons = [r for r in table["reason"].to_pylist() if r]
    assert any("prototype" in r for r in reasons)
    # the test set itself is there to be tested on
    there = set(table.filter(pc.equal(table["split"], "test"))["id"].to_pylist())
    assert {c.id for c in tests} <= there
