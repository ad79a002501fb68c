"""Measured reflections of MTZ files, and what these say of the crystal."""

from __future__ import annotations

import re
from pathlib import Path

import gemmi
import numpy as np

from phaseray.crystal import Floats
from phaseray.sources.crystal_data import CrystalData
from phaseray.sources.reflections import MOST_INDEX, Kind, Reflections, reflections_of


def read_mtz(path: Path, size: int) -> tuple[Reflections, CrystalData]:
    """The measurements of an MTZ file of `size` bytes, and its cell, space group and wavelength.

    Read are intensities, else amplitudes with deviations (calculated ones have none), else the mean of Friedel pairs.

    Raises
    ------
    ValueError
        Nothing of these in it, or a file that cannot be read.
    """
    try:
        mtz = gemmi.read_mtz_file(str(path), with_data=False)
        # a header that lies would have memory reserved for what is not there
        if mtz.nreflections < 0 or 4 * mtz.nreflections * len(mtz.columns) > size:
            raise ValueError("the file is shorter than its header says")
        mtz = gemmi.read_mtz_file(str(path))
        types = "".join(column.type[:1] or " " for column in mtz.columns)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"not an MTZ file that can be read: {error}") from None
    if not types.startswith("HHH"):
        raise ValueError("the first columns of the MTZ file are not h, k and l")
    kind, values, sigmas = _columns(types)
    with np.errstate(invalid="ignore"):  # of NaN with odd bits
        table = np.array(mtz.array, np.float64).reshape(-1, len(types))
    # what is missing is NaN in most files, else the number that the header says
    table[:, 3:][table[:, 3:] == mtz.valm] = np.nan
    value, n = _mean(table[:, values])
    if sigmas:
        squares, m = _mean(table[:, sigmas] ** 2)
        sigma = np.sqrt(squares / m)
    else:
        sigma = np.full(len(table), np.nan)
    if not (abs(table[:, :3]) < MOST_INDEX).all():
        raise ValueError("the MTZ file has indices that no reflection of a crystal has")
    rows = np.column_stack([np.rint(table[:, :3]), value, sigma])[n > 0]
    wavelength = mtz.datasets[-1].wavelength if len(mtz.datasets) else 0.0
    cell = np.array(mtz.cell.parameters) if mtz.cell.is_crystal() else None
    said = CrystalData(path.name, cell, mtz.spacegroup, None, wavelength if 0 < wavelength < np.inf else None)
    return reflections_of([tuple(row) for row in rows.tolist()], kind), said


def _columns(types: str) -> tuple[Kind, list[int], list[int]]:
    """What to read of an MTZ file with columns of these types: the kind, the columns of values and of deviations."""
    found = re.search("J[^JFGK]*?Q", types)
    if found or "J" in types:
        return "F2", [types.index("J") if found is None else found.start()], [found.end() - 1] if found else []
    if found := re.search("F[^JFGK]*?Q", types):
        return "F", [found.start()], [found.end() - 1]
    pairs: tuple[tuple[Kind, str, str], ...] = (("F2", "K", "M"), ("F", "G", "L"))
    for kind, letter, deviation in pairs:
        values = [i for i, t in enumerate(types) if t == letter][:2]
        if values:
            sigmas = [i for i, t in enumerate(types) if t == deviation and i > values[0]][:2]
            return kind, values, sigmas if len(sigmas) == len(values) else []
    raise ValueError("the MTZ file has no measured intensities (J, K) or amplitudes (F with Q, G)")


def _mean(columns: Floats) -> tuple[Floats, Floats]:
    """(n,) means of what is there in each row, NaN where nothing is, and of how many."""
    there = ~np.isnan(columns)
    n = there.sum(1).astype(np.float64)
    return np.where(there, columns, 0.0).sum(1) / np.where(n > 0, n, np.nan), n
