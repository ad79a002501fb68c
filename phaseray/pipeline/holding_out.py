"""Crystals that share a formula or a prototype with a test set are kept out of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from phaseray.config import IngestConfig
from phaseray.crystal import Crystal, Rejection
from phaseray.pipeline.split import split_of
from phaseray.pipeline.storage import read_json, write_json
from phaseray.sources import list_inputs, read_inputs
from phaseray.sources.leaks import HeldOut

FILE = "held_out.json"


def write_held_out(config: IngestConfig, seed: int, out: Path) -> None:
    """Read the test sets that `config.hold_out` names and write their keys to `out`; nothing if it names none."""
    if config.hold_out and not (out / FILE).exists():
        write_json(out / FILE, {"keys": sorted(HeldOut.of(_held_out(config, seed)).keys)})


def read_held_out(out: Path) -> HeldOut | None:
    """What `write_held_out` wrote, None if that was nothing."""
    path = out / FILE
    return HeldOut(frozenset(read_json(path)["keys"])) if path.exists() else None


def _held_out(config: IngestConfig, seed: int) -> Iterator[Crystal]:
    for held in config.hold_out:
        refs = list(list_inputs(held.source, seed, limits=config.limits))
        for _, result, _ in read_inputs(refs, config.limits):
            if isinstance(result, Rejection):
                continue
            if held.part == "all" or split_of(result.reduced_formula, config.split) == "test":
                yield result


def without_held_out(row: dict[str, Any], held_out: HeldOut) -> dict[str, Any]:
    """The row, or a rejected one in its place if it would be trained on and shares a key with the test sets."""
    if row["status"] != "ok" or row["split"] == "test":
        return row
    shared = held_out.shared(_crystal(row))
    if not shared:
        return row
    known = {name: row[name] for name in ("id", "uri", "member", "sha256", "source")}
    reason = f"shares with a test set: {', '.join(shared)}"
    return known | {"status": "rejected", "code": "held_out", "reason": reason}


def _crystal(row: dict[str, Any]) -> Crystal:
    return Crystal(
        cell=row["cell"],
        numbers=row["numbers"],
        positions=np.array(row["positions"]),
        occupancy=row["occupancy"],
        isotopes=row["isotopes"],
        space_group_number=row["space_group_number"],
    )
