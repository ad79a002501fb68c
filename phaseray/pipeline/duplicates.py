"""Which crystals of a catalogue are one structure: the first of them stays, the others are its duplicates.

Decided when every part stands, over the whole catalogue, in the order of inputs.parquet: the result
depends on the parts alone. A duplicate always names a crystal that stays, never another duplicate.

Fingerprints cost as much as reading, so they are made only of crystals that another of the same elements
comes near in density and composition, part by part in workers. What the driver holds are arrays: some 50
bytes a crystal, and the fingerprints of some tens of thousands at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phaseray.fingerprint import fingerprint, neighbourhood, rough_neighbourhood, same_values
from phaseray.pipeline import schema
from phaseray.pipeline.storage import write_row_groups, write_table

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

_PAIRS = 100_000  # compared at once
_AT_ONCE = 50_000  # fingerprints in memory
_CANDIDATES = pa.schema([("row", pa.int32())])
_FINGERPRINTS = pa.schema([("row", pa.int32()), ("system", pa.int64()), ("values", pa.list_(pa.float32()))])


def write_candidates(parts: list[Path], folder: Path) -> list[dict[str, Any]]:
    """Find out which rows need a fingerprint; the units for FingerprintWriter, one a part that has any.

    Parameters
    ----------
    parts : list of Path
        The files of a catalogue, in order.
    folder : Path
        To be handed to FingerprintWriter and `mark_duplicates`.
    """
    places = candidates(parts)
    ends = _ends(parts)
    units: list[dict[str, Any]] = []
    groups: list[pa.Table] = []
    for part in range(len(parts)):
        first, end = np.searchsorted(places, ends[part : part + 2])
        if first < end:
            units.append({"part": part, "group": len(groups), "count": int(end - first)})
            groups.append(pa.table({"row": pa.array(places[first:end] - ends[part], pa.int32())}, schema=_CANDIDATES))
    if groups:
        write_row_groups(folder / "candidates.parquet", groups, _CANDIDATES)
    return units


def fingerprint_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.parquet"


class FingerprintWriter:
    """Makes the fingerprints of one part that are needed, and writes their file."""

    def __init__(self, parts: str, folder: str) -> None:
        self.parts, self.folder = Path(parts), Path(folder)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        wanted = pq.ParquetFile(self.folder / "candidates.parquet").read_row_group(unit["group"])["row"]
        table = pq.read_table(self.parts / f"part-{unit['part']:05d}.parquet").take(wanted)
        rows = []
        for row, crystal in zip(wanted.to_pylist(), schema.crystals(table), strict=True):
            found = fingerprint(crystal)
            if found is not None:
                rows.append({"row": row, "system": _number(found.system), "values": found.values})
        write_table(fingerprint_path(self.folder, unit["part"]), schema.rows_to_table(rows, _FINGERPRINTS))
        return {"count": unit["count"]}


def mark_duplicates(parts: list[Path], folder: Path, units: list[dict[str, Any]], out: Path) -> int:
    """Write `out` (schema.DUPLICATES), a row a duplicate, from the fingerprints of all units; how many there are."""
    ends = _ends(parts)
    files = [(fingerprint_path(folder, unit["part"]), int(ends[unit["part"]])) for unit in units]
    found = [np.empty((2, 0), np.int64), *_duplicates(files)]
    place, of = np.concatenate(found, axis=1)
    order = np.argsort(place)
    place, of = place[order], of[order]
    named = np.unique(np.concatenate([place, of]))
    ids = _ids(parts, ends, named)
    part = np.searchsorted(ends, place, side="right") - 1
    columns = {
        "part": pa.array(part, pa.int32()),
        "row": pa.array(place - ends[part], pa.int32()),
        "id": ids.take(pa.array(np.searchsorted(named, place))),
        "duplicate_of": ids.take(pa.array(np.searchsorted(named, of))),
    }
    write_table(out, pa.table(columns, schema=schema.DUPLICATES))
    return len(place)


def candidates(parts: list[Path]) -> Rows:
    """Places, counted over all parts, of crystals that are near another by what is known at a glance."""
    system, density, shares, start = _overview(parts)
    rows = np.flatnonzero(system != 0)
    rows = rows[np.lexsort((density[rows], system[rows]))]
    # by density alone first, which leaves alone most of what is rare
    step = np.diff(rough_neighbourhood(density[rows], np.empty((len(rows), 0)))[:, 0]) <= 1
    step &= np.diff(system[rows]) == 0
    rows = rows[np.append(step, False) | np.insert(step, 0, False)] if len(rows) else rows
    kept = [np.empty(0, np.int64)]
    for members in np.split(rows, np.flatnonzero(np.diff(system[rows])) + 1):
        if len(members):
            width = int(start[members[0] + 1] - start[members[0]])
            own = shares[start[members][:, None] + np.arange(width)]
            kept.append(members[_has_neighbour(rough_neighbourhood(density[members], own))])
    return np.sort(np.concatenate(kept))


def _has_neighbour(coordinates: Floats) -> NDArray[np.bool_]:
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(coordinates).query(coordinates, k=[2], p=np.inf, distance_upper_bound=1.0)
    found: NDArray[np.bool_] = np.isfinite(distance[:, 0])
    return found


def _overview(parts: list[Path]) -> tuple[Rows, Floats, Floats, Rows]:
    """Of every row: chemical system (a number; 0 for none), atoms an Å³, shares; where in those its own begin."""
    system, density, shares, sizes = [], [], [], []
    for path in parts:
        table = pq.read_table(path, columns=["chemical_system", "number_density", "element_shares"])
        names = table["chemical_system"].combine_chunks().dictionary_encode()
        numbers = np.array([0, *(_number(name) for name in names.dictionary.to_pylist())], np.int64)
        system.append(numbers[pc.fill_null(names.indices, -1).to_numpy(zero_copy_only=False) + 1])
        density.append(table["number_density"].to_numpy())
        lists = table["element_shares"].combine_chunks()
        shares.append(lists.flatten().to_numpy(zero_copy_only=False))
        sizes.append(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))
    start = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes]))
    return np.concatenate(system), np.concatenate(density), np.concatenate(shares), start


def _number(system: str) -> int:
    return int.from_bytes(hashlib.blake2b(system.encode(), digest_size=8).digest(), signed=True)


def _duplicates(files: list[tuple[Path, int]]) -> Iterator[Rows]:
    """(2, n) places of duplicates and of the crystals that stay in their stead, some systems at a time."""
    systems = [pq.read_table(path, columns=["system"])["system"].to_numpy() for path, _ in files]
    numbers, counts = np.unique(np.concatenate([np.empty(0, np.int64), *systems]), return_counts=True)
    del systems
    batch = np.cumsum(counts) // _AT_ONCE
    for of_batch in np.split(numbers[counts > 1], np.flatnonzero(np.diff(batch[counts > 1])) + 1):
        wanted = pa.array(of_batch)
        tables = []
        for path, first in files if len(of_batch) else ():
            table = pq.read_table(path)
            table = table.filter(pc.is_in(table["system"], value_set=wanted))
            places = pa.array(table["row"].to_numpy().astype(np.int64) + first)
            tables.append(table.set_column(0, "place", places))
        if tables:
            yield from _of_systems(pa.concat_tables(tables))


def _of_systems(table: pa.Table) -> Iterator[Rows]:
    table = table.sort_by([("system", "ascending"), ("place", "ascending")]).combine_chunks()
    place, system = table["place"].to_numpy(), table["system"].to_numpy()
    lists = table["values"].combine_chunks()
    values, start = lists.values.to_numpy(), lists.offsets.to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(system)) + 1).tolist(), len(system)]
    for first, end in pairwise(edges):
        of = _leaders(values[start[first] : start[end]].reshape(end - first, -1)) if end - first > 1 else {}
        if of:
            yield place[first + np.array(list(of.items())).T]


def _ends(parts: list[Path]) -> Rows:
    return np.cumsum([0, *(pq.read_metadata(path).num_rows for path in parts)])


def _ids(parts: list[Path], ends: Rows, places: Rows) -> pa.Array:
    """Ids at sorted places, file by file."""
    found = [pa.array([], pa.string())]
    for number, path in enumerate(parts):
        first, end = np.searchsorted(places, ends[number : number + 2])
        if first < end:
            column = pq.read_table(path, columns=["id"])["id"].combine_chunks()
            found.append(column.take(pa.array(places[first:end] - ends[number])))
    return pa.concat_arrays(found)


def _leaders(values: NDArray[np.float32]) -> dict[int, int]:
    """Of rows in order: a duplicate's number to that of the first row that stays and is the same."""
    from scipy.spatial import cKDTree

    # copies to the last bit first: a thousand of them would make half a million pairs
    first: dict[bytes, int] = {}
    of = {i: same for i, row in enumerate(values) if (same := first.setdefault(row.tobytes(), i)) != i}
    rows = np.array(list(first.values()))
    pairs = cKDTree(neighbourhood(values[rows])).query_pairs(1.0, p=np.inf, output_type="ndarray")
    pairs = rows[pairs].reshape(-1, 2)
    agree = [
        same_values(values[pairs[i : i + _PAIRS, 0]], values[pairs[i : i + _PAIRS, 1]])
        for i in range(0, len(pairs), _PAIRS)
    ]
    pairs = np.sort(pairs[np.concatenate([np.empty(0, bool), *agree])], axis=1)
    for earlier, later in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].tolist():
        if later not in of and earlier not in of:
            of[later] = earlier
    # a copy of a duplicate is a duplicate of what stays
    return {later: of.get(earlier, earlier) for later, earlier in of.items()}
