"""Counts of values in ranges that people can read, and of space groups and elements."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = list[tuple[str, int]]

# last space-group number of each system (International Tables A)
SYSTEMS = {
    "triclinic": 2, "monoclinic": 15, "orthorhombic": 74, "tetragonal": 142, "trigonal": 167, "hexagonal": 194,
    "cubic": 230,
}  # fmt: skip


def histogram(values: ArrayLike, most: int = 8) -> Rows:
    """Counts of values between round limits: 1, 2, 5, 10, … where they span a factor of 20, else `most` even steps."""
    v = np.asarray(values)
    if not v.size:
        return []
    low, high = float(v.min()), float(v.max())
    whole = bool(np.issubdtype(v.dtype, np.integer))
    if low == high:
        return [(_number(low, 0 if whole else 2), v.size)]
    if low > 0 and high / low >= 20:
        edges = _series(low, high)
    else:
        step = max(_step((high - low) / (most - 1)), 1.0 if whole else 0.0)
        edges = np.arange(np.floor(low / step), np.floor(high / step) + 2) * step
    return _count(v, edges, whole)


def resolutions(complete_d_min: ArrayLike, d_min: float) -> Rows:
    """Counts of crystals whose grid holds all reflections to d_min, and to how much less the others' do."""
    d = np.asarray(complete_d_min, float)
    full = d <= d_min * (1 + 1e-6)
    rows = [(f"{d_min:g} as asked", int(full.sum()))]
    rest = d[~full]
    if rest.size:
        step = _step((float(rest.max()) - d_min) / 6)
        first = int((float(rest.min()) - d_min) / step)
        edges = d_min + step * np.arange(first, int((float(rest.max()) - d_min) / step) + 2)
        rows += _count(rest, edges, whole=False)
    return rows


def summary(values: ArrayLike) -> dict[str, float]:
    v = np.asarray(values, float)
    if not v.size:
        return {}
    return {"min": round(float(v.min()), 4), "median": round(float(np.median(v)), 4), "max": round(float(v.max()), 4)}


def crystal_systems(numbers: ArrayLike) -> Rows:
    """Of space-group numbers; 0 is not known."""
    n = np.asarray(numbers)
    places = np.searchsorted(list(SYSTEMS.values()), n, side="left")
    rows = [(name, int(((places == i) & (n > 0)).sum())) for i, name in enumerate(SYSTEMS)]
    unknown = int((n == 0).sum())
    return rows + ([("not known", unknown)] if unknown else [])


def space_groups(numbers: ArrayLike) -> Rows:
    """Known space groups, the most frequent first: "225 Fm-3m"."""
    counts = Counter(int(n) for n in np.asarray(numbers) if n > 0)
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(f"{n} {gemmi.find_spacegroup_by_number(n).hm.replace(' ', '')}", count) for n, count in order]


def elements(numbers: ArrayLike, crystal: ArrayLike) -> Rows:
    """In how many crystals each element is, the most frequent first.

    Parameters
    ----------
    numbers, crystal : (k,) integers
        Atomic number of each atom, and which crystal it belongs to.
    """
    pairs = np.unique(np.asarray(crystal, np.int64) * 256 + np.asarray(numbers, np.int64))
    counts = np.bincount(pairs % 256, minlength=1)
    order = sorted(np.flatnonzero(counts), key=lambda z: (-counts[z], z))
    return [(gemmi.Element(int(z)).name, int(counts[z])) for z in order]


def _count(v: NDArray[Any], edges: NDArray[Any], whole: bool) -> Rows:
    """Counts between the edges; a value on an edge belongs to the range above it."""
    decimals = next(k for k in range(9) if np.allclose(np.round(edges, k), edges, rtol=0, atol=1e-9))
    places = np.searchsorted(edges - 1e-9 * abs(edges), v, side="right") - 1
    counts = np.bincount(np.clip(places, 0, len(edges) - 2), minlength=len(edges) - 1)
    return [(_range(lo, hi, decimals, whole), int(n)) for lo, hi, n in zip(edges[:-1], edges[1:], counts, strict=True)]


def _series(low: float, high: float) -> NDArray[np.float64]:
    """… 1, 2, 5, 10, 20, 50 … from below `low` to above `high`."""
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 2)
    series = [float(f"{m}e{d}") for d in decades for m in (1, 2, 5)]
    first = max(i for i, edge in enumerate(series) if edge <= low)
    last = min(i for i, edge in enumerate(series) if edge > high)
    return np.array(series[first : last + 1])


def _step(least: float) -> float:
    """The next of 1, 2, 5 · 10^k."""
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9)))


def _range(low: float, high: float, decimals: int, whole: bool) -> str:
    if whole and high - low <= 1:
        return _number(low, 0)
    return f"{_number(low, decimals)}–{_number(high - 1 if whole else high, decimals)}"


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}"
