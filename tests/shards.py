"""A small finished folder of shards, written without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from phaseray.diffraction.maps import density_from_half_grid
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.pipeline.storage import write_json, write_table
from phaseray.sources.prototypes import prototype


def write_shards(folder: Path, counts: Mapping[str, int], side: int = 8, d_min: float = 2.0) -> Path:
    """Prototypes, `counts` of them a split, on side x side x side points."""
    shape = (side, side, side)
    files, first = [], 0
    for split, count in counts.items():
        rows = []
        for i in range(first, first + count):
            crystal = prototype(3 * i).with_default_u_iso(0.02)
            f = structure_factor_grid(crystal, shape, d_min)
            rows.append((crystal, np.abs(f), density_from_half_grid(f, shape, crystal.volume)))
        first += count
        file = f"split={split}/shape={side}x{side}x{side}/part-00000.parquet"
        write_table(folder / file, _table(rows))
        files.append({"file": file, "split": split, "shape": list(shape), "rows": count})
    write_json(
        folder / "dataset.json",
        {
            "dataset_digest": "0123456789abcdef", "d_min": d_min, "files": files,
            "split": {"train": 0, "val": 0, "test": 0, **counts},
            "shapes": {f"{side}x{side}x{side}": sum(counts.values())},
        },
    )  # fmt: skip
    return folder


def _table(rows: list) -> pa.Table:
    def tensor(grids: list[np.ndarray]) -> pa.Array:
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(np.stack(grids), dtype=np.float32))

    crystals = [c for c, _, _ in rows]
    return pa.table(
        {
            "id": [c.id for c in crystals],
            "amplitude": tensor([a for _, a, _ in rows]),
            "density": tensor([d for _, _, d in rows]),
            "volume": [c.volume for c in crystals],
            "cell": pa.array([list(c.cell) for c in crystals], pa.list_(pa.float64(), 6)),
            "numbers": [c.numbers.tolist() for c in crystals],
            "positions": pa.array([c.positions.tolist() for c in crystals], pa.list_(pa.list_(pa.float64(), 3))),
            "formula": [c.reduced_formula for c in crystals],
            "space_group": pa.array([None] * len(crystals), pa.string()),
        }
    )
