"""Which rows of a catalogue go into which shard: by split and grid shape, in the catalogue's order."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phaseray.config import GenerateConfig
from phaseray.diffraction.grid import Shape
from phaseray.pipeline import catalogue as catalogues
from phaseray.pipeline.storage import aside

PLAN = "plan.parquet"
_COLUMNS = pa.schema([("part", pa.int32()), ("row", pa.int32())])

Numbers = NDArray[np.int64]


def shape_name(shape: Shape) -> str:
    return "x".join(map(str, shape))


def write_plan(config: GenerateConfig, catalogue: Path, path: Path) -> list[dict[str, Any]]:
    """Write the plan, a row group a shard, and give a unit of work for each: file, split, shape, group, count.

    The catalogue is gone through part by part; of its rows no more is kept than fills the shards under way.
    """
    units: list[dict[str, Any]] = []
    files: Counter[tuple[str, Shape]] = Counter()
    with aside(path) as name, pq.ParquetWriter(name, _COLUMNS) as writer:
        for (split, shape), part, row in _shards(config, catalogue):
            writer.write_table(pa.table({"part": part, "row": row}, schema=_COLUMNS), row_group_size=len(part))
            number = files[split, shape]
            files[split, shape] += 1
            file = f"split={split}/shape={shape_name(shape)}/part-{number:05d}.parquet"
            units.append({"file": file, "split": split, "shape": list(shape), "group": len(units), "count": len(part)})
    return units


def read_plan(path: Path, group: int) -> tuple[Numbers, Numbers]:
    """Part and row of the crystals of one shard."""
    table = pq.ParquetFile(path).read_row_group(group)
    return table["part"].to_numpy().astype(np.int64), table["row"].to_numpy().astype(np.int64)


def _shards(config: GenerateConfig, catalogue: Path) -> Iterator[tuple[tuple[str, Shape], Numbers, Numbers]]:
    # a place in four bytes each, where a tuple would take a hundred
    under_way: dict[tuple[str, Shape], tuple[array[int], array[int]]] = defaultdict(lambda: (array("i"), array("i")))
    for table in catalogues.iterate_catalogue(catalogue, ["status", "split", "cell"]):
        used = table.filter(pc.equal(table["status"], "ok"))
        cells = np.asarray(used["cell"].combine_chunks().flatten()).reshape(-1, 6)
        for cell, *place in zip(cells, *(used[name].to_pylist() for name in ("split", "part", "row")), strict=True):
            key = (place[0], config.grid.shape(cell, config.d_min))
            parts, rows = under_way[key]
            parts.append(place[1])
            rows.append(place[2])
            if len(parts) == config.rows_per_shard:
                yield key, np.array(parts), np.array(rows)
                del under_way[key]
    for key in sorted(under_way):
        parts, rows = under_way[key]
        yield key, np.array(parts), np.array(rows)
