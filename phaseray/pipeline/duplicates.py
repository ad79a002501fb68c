"""Which crystals of a catalogue are one structure: the first of them stays, the others are its duplicates.

Decided when every part stands, over the whole catalogue, in the order of inputs.parquet: the result
depends on the parts alone. A duplicate always names a crystal that stays, never another duplicate.
Fingerprints are read only of crystals that another of the same elements comes near in density.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phaseray.fingerprint import SAME_DENSITY, neighbourhood, same_values
from phaseray.pipeline import schema
from phaseray.pipeline.storage import write_table

Rows = NDArray[np.int64]

_PAIRS = 100_000  # compared at once


def mark_duplicates(parts: list[Path], out: Path) -> int:
    """Write `out` (schema.DUPLICATES), a row a duplicate; the number of them.

    Parameters
    ----------
    parts : list of Path
        The files of a catalogue, in order.
    """
    place, of = _duplicates(parts)
    sizes = [pq.read_metadata(path).num_rows for path in parts]
    ends = np.cumsum([0, *sizes])
    ids = _take(parts, ends, np.unique(np.concatenate([place, of])), "id")
    part = np.searchsorted(ends, place, side="right") - 1
    columns = {
        "part": pa.array(part, pa.int32()),
        "row": pa.array(place - ends[part], pa.int32()),
        "id": pa.array([ids[i] for i in place.tolist()], pa.string()),
        "duplicate_of": pa.array([ids[i] for i in of.tolist()], pa.string()),
    }
    write_table(out, pa.table(columns, schema=schema.DUPLICATES))
    return len(place)


def _duplicates(parts: list[Path]) -> tuple[Rows, Rows]:
    """Places of the duplicates, counted over all parts, and of the crystals that stay in their stead."""
    system, density = _overview(parts)
    candidates = np.sort(np.concatenate([np.empty(0, np.int64), *_crowds(system, density)]))
    ends = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in parts)])
    # of one length within a system
    found = _take(parts, ends, candidates, "fingerprint")
    of: dict[int, int] = {}
    for code in np.unique(system[candidates]):
        rows = candidates[system[candidates] == code]
        values = np.array([found[i] for i in rows.tolist()], np.float32)
        for later, earlier in _leaders(values).items():
            of[int(rows[later])] = int(rows[earlier])
    place = np.array(sorted(of), np.int64)
    return place, np.array([of[i] for i in place.tolist()], np.int64)


def _overview(parts: list[Path]) -> tuple[Rows, NDArray[np.float64]]:
    """Chemical system (a number; -1 without a fingerprint) and atoms an Å³ of every row."""
    codes: dict[str | None, int] = {None: -1}
    system, density = [], []
    for path in parts:
        table = pq.read_table(path, columns=["chemical_system", "number_density"])
        names = table["chemical_system"].to_pylist()
        system.append(np.array([codes.setdefault(name, len(codes)) for name in names], np.int64))
        density.append(table["number_density"].to_numpy())
    return np.concatenate(system), np.concatenate(density)


def _crowds(system: Rows, density: NDArray[np.float64]) -> Iterator[Rows]:
    """Rows of one system that are next to another in density."""
    rows = np.flatnonzero(system >= 0)
    rows = rows[np.lexsort((density[rows], system[rows]))]
    near = (np.diff(system[rows]) == 0) & (density[rows][1:] <= density[rows][:-1] * (1 + 2 * SAME_DENSITY))
    yield rows[np.append(near, False) | np.insert(near, 0, False)] if len(rows) else rows


def _take(parts: list[Path], ends: Rows, places: Rows, column: str) -> dict[int, object]:
    """Values of one column at sorted places, file by file."""
    found: dict[int, object] = {}
    for number, path in enumerate(parts):
        first, end = np.searchsorted(places, ends[number : number + 2])
        if first < end:
            values = pq.read_table(path, columns=[column])[column].take(places[first:end] - ends[number])
            items = values.to_pylist() if column == "id" else (np.asarray(v.values) for v in values)
            found.update(zip(places[first:end].tolist(), items, strict=True))
    return found


def _leaders(values: NDArray[np.float32]) -> dict[int, int]:
    """Of rows in order: a duplicate's number to that of the first row that stays and is the same."""
    from scipy.spatial import cKDTree

    # copies to the last bit first: a thousand of them would make half a million pairs
    _, first, inverse = np.unique(values, axis=0, return_index=True, return_inverse=True)
    of = {i: int(first[group]) for i, group in enumerate(inverse.reshape(-1).tolist()) if first[group] != i}
    rows = np.sort(first)
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
