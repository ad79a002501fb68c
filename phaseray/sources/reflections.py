"""Measured reflections: SHELX .hkl files and the _refln loops of CIFs, merged under the space group, then in P1.

What a line of a SHELX file means is not in the file: HKLF 4 holds F², HKLF 3 holds F; F² is taken unless told
otherwise. Its columns are fixed (3I4, 2F8, I4), but not all programs keep to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseray.diffraction.ambiguity import SpaceGroup, space_group

Kind = Literal["F2", "F"]
_VALUES: tuple[tuple[Kind, str], ...] = (
    ("F2", "F_squared_meas"), ("F2", "intensity_meas"), ("F", "F_meas"), ("F", "F_meas_au"),
)  # fmt: skip
_SIGMAS = {
    "F_squared_meas": "F_squared_sigma", "intensity_meas": "intensity_sigma", "F_meas": "F_sigma",
    "F_meas_au": "F_sigma_au",
}  # fmt: skip
_REFLECTION = re.compile(r"(?: *[-+]?\d+){3} *[-+]?[\d.]")  # how a list begins, of fixed columns or with blanks between
_LEFT_OUT = ("x", "h", "l", "<")  # _refln_include_status: left out by the authors, or unobserved


@dataclass(frozen=True, eq=False)
class Reflections:
    """A list of measurements, as the file has them.

    Attributes
    ----------
    hkl : (n, 3) int64
    value : (n,) float64
        F² (may be below zero) or |F|, as `kind` says.
    sigma : (n,) float64 or None
    kind : "F2" or "F"
    """

    hkl: NDArray[np.int64]
    value: NDArray[np.float64]
    sigma: NDArray[np.float64] | None
    kind: Kind

    def __len__(self) -> int:
        return len(self.hkl)


@dataclass(frozen=True, eq=False)
class Merged:
    """Amplitudes of the whole sphere in P1, one of each Friedel pair.

    Attributes
    ----------
    hkl, amplitude, sigma : (n, 3), (n,), (n,) or None
    n_unique : unique reflections under the space group
    n_absent : measurements of reflections that the space group forbids, left out
    r_int : float or None
        Σ|I - ⟨I⟩| / ΣI of reflections measured more than once, of F²; None where there is none.
    """

    hkl: NDArray[np.int64]
    amplitude: NDArray[np.float64]
    sigma: NDArray[np.float64] | None
    n_unique: int
    n_absent: int
    r_int: float | None


MOST_INDEX = 10_000
"""Indices are below: a cell of 1000 Å to 0.1 Å. What is far above becomes a grid that no memory holds."""
MOST_BYTES = 64 << 20
"""Of a file of reflections, or one beside it: two million lines."""
_MOST_VALUE = 1e30  # of what counts as measured: squares and weights stay finite


def read_reflections(path: Path | str, kind: Kind = "F2") -> Reflections:
    """A file of reflections, whichever of the formats it has; `kind` is that of a SHELX file.

    Raises
    ------
    ValueError
        No reflection in it, or a line that cannot be read: which, and why. Or the file is over 64 MiB.
    """
    with Path(path).open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path}: over {MOST_BYTES >> 20} MiB, which no list of reflections of one crystal needs")
    try:
        return parse(content.decode("utf-8", errors="replace"), kind)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(text: str, kind: Kind = "F2") -> Reflections:
    """The text of such a file."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return parse_cif(text) if is_cif(text) else parse_shelx(text, kind)


def is_cif(text: str) -> bool:
    """Whether this is a CIF, not lines of SHELX.

    How it begins decides: programs write items of a CIF below the list of an .hkl file.
    """
    return not _REFLECTION.match(text.lstrip()) and "data_" in text.lower()


def parse_shelx(text: str, kind: Kind = "F2") -> Reflections:
    """The lines of an .hkl file, up to the line 0 0 0 that ends it."""
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    # fixed columns leave column 21 blank or a sign where the field before is full
    blanks = any(len(line) > 20 and line[19] != " " and line[20] not in " +-" for line in lines[:200])
    rows: list[tuple[float, ...]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = _by_blanks(line) if blanks else _by_columns(line)
        except ValueError:
            if rows:  # after the data, SHELX lets anything follow
                break
            raise ValueError(f"line {number} is no reflection (h k l value σ): {line.strip()[:40]!r}") from None
        if row[:3] == (0, 0, 0):
            break
        rows.append(row)
    return reflections_of(rows, kind)


def parse_cif(text: str) -> Reflections:
    """The first _refln loop with measured values, or the .hkl file inside a CIF (_shelx_hkl_file), in any block."""
    try:
        document = gemmi.cif.read_string(text)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"not a CIF that can be read: {error}") from None
    for block in document:
        for kind, name in _VALUES:
            found = _loop(block, name, kind)
            if found is not None:
                return found
    for block in document:
        for tag in ("_shelx_hkl_file", "_iucr_refine_reflections_details"):
            inside = block.find_value(tag)
            if inside is not None and len(inside) > 100:
                return parse_shelx(gemmi.cif.as_string(inside))
    raise ValueError("it holds no measured reflections: no _refln loop with F_squared_meas, intensity_meas or F_meas")


def merge(reflections: Reflections, group: SpaceGroup) -> Merged:
    """Mean of equivalents (1/σ² weights, and never less than the mean of the σ's weight), absences left out, in P1.

    Friedel's law is assumed. A mean F² below zero becomes |F| = 0.
    """
    operations = space_group(group).operations()
    asu = gemmi.ReciprocalAsu(space_group(group))
    kept = [i for i, h in enumerate(reflections.hkl) if not operations.is_systematically_absent(h.tolist())]
    kept = [i for i in kept if reflections.hkl[i].any()]
    if not kept:
        raise ValueError(f"no reflection is allowed by the space group {space_group(group).xhm()}")
    place = np.array([asu.to_asu(reflections.hkl[i].tolist(), operations)[0] for i in kept])
    unique, index = np.unique(place, axis=0, return_inverse=True)
    index = index.reshape(-1)
    value = reflections.value[kept]
    sigma = None if reflections.sigma is None else reflections.sigma[kept]
    if reflections.kind == "F":
        sigma = None if sigma is None else 2 * np.maximum(value, sigma) * sigma
        value = value * abs(value)
    weight = np.ones(len(value)) if sigma is None else 1 / np.maximum(sigma, 0.1 * np.median(sigma)) ** 2
    norm = np.bincount(index, weight)
    mean = np.bincount(index, weight * value) / norm
    times = np.bincount(index)[index] > 1
    total = abs(value[times]).sum()
    r_int = float(abs(value - mean[index])[times].sum() / total) if total > 0 else None
    amplitude = np.sqrt(np.maximum(mean, 0))
    deviation = None
    if sigma is not None:
        s = 1 / np.sqrt(norm)
        deviation = s / np.maximum(2 * amplitude, np.sqrt(s))
    hkl, source = _written_out(unique, operations)
    return Merged(
        hkl, amplitude[source], None if deviation is None else deviation[source], len(unique),
        len(reflections) - len(kept), r_int,
    )  # fmt: skip


def with_absences(merged: Merged, cell: ArrayLike, group: SpaceGroup, d_min: float) -> Merged:
    """The same with an amplitude of 0 for every reflection to `d_min` (Å) that the space group extinguishes.

    What is known to be 0 is measured: without it centrings and glide planes would have to be found anew. Their σ is
    the smallest there is.
    """
    operations = space_group(group).operations()
    every = gemmi.make_miller_array(gemmi.UnitCell(*np.asarray(cell)), gemmi.SpaceGroup("P 1"), d_min)
    extinct = np.array([h for h in every.tolist() if operations.is_systematically_absent(h)], np.int64).reshape(-1, 3)
    sigma = merged.sigma
    if sigma is not None:
        sigma = np.concatenate([sigma, np.full(len(extinct), sigma.min())])
    return replace(
        merged, hkl=np.concatenate([merged.hkl, extinct]), sigma=sigma,
        amplitude=np.concatenate([merged.amplitude, np.zeros(len(extinct))]),
    )  # fmt: skip


def _written_out(unique: NDArray[np.int64], operations: gemmi.GroupOps) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All equivalents, one of each Friedel pair, and which of the unique ones each is."""
    rotations = np.array([op.rot for op in operations.sym_ops]) // gemmi.Op.DEN
    every = np.concatenate([unique @ rotation for rotation in rotations])
    source = np.tile(np.arange(len(unique)), len(rotations))
    h, k, n_l = every.T
    other = (n_l < 0) | ((n_l == 0) & ((k < 0) | ((k == 0) & (h < 0))))
    every = np.where(other[:, None], -every, every)
    hkl, first = np.unique(every, axis=0, return_index=True)
    return hkl, source[first]


def _by_columns(line: str) -> tuple[float, ...]:
    h, k, n_l = (int(line[i : i + 4]) for i in (0, 4, 8))
    sigma = line[20:28].strip()
    return (h, k, n_l, float(line[12:20]), float(sigma) if sigma else np.nan)


def _index(value: float) -> int:
    if not (abs(value) < MOST_INDEX and value == int(value)):  # nan is not below
        raise ValueError(f"an index of {value:g}")
    return int(value)


def _by_blanks(line: str) -> tuple[float, ...]:
    parts = line.split()
    if len(parts) < 4:
        raise ValueError("too few numbers")
    h, k, n_l = (_index(float(part)) for part in parts[:3])
    return (h, k, n_l, float(parts[3]), float(parts[4]) if len(parts) > 4 else np.nan)


def _loop(block: gemmi.cif.Block, name: str, kind: Kind) -> Reflections | None:
    tags = ["index_h", "index_k", "index_l", name, "?" + _SIGMAS[name], "?include_status", "?observed_status"]
    table = block.find("_refln_", tags)
    rows = []
    for row in table:
        status = next((row[i] for i in (5, 6) if row.has(i)), "o")
        value = gemmi.cif.as_number(row[3])
        if status in _LEFT_OUT[:3] or not np.isfinite(value):
            continue
        sigma = gemmi.cif.as_number(row[4]) if row.has(4) else np.nan
        rows.append((*(_index(gemmi.cif.as_number(row[i])) for i in range(3)), value, sigma))
    return reflections_of(rows, kind) if rows else None


def reflections_of(rows: list[tuple[float, ...]], kind: Kind) -> Reflections:
    """Of rows h, k, l, value, σ (NaN where there is none).

    A deviation that is not above zero becomes the smallest one that is. If none is, or one is missing or beyond
    measure, the list has none.

    Raises
    ------
    ValueError
        No row, or a value that nobody measures.
    """
    if not rows:
        raise ValueError("it holds no reflection")
    table = np.array(rows, np.float64)
    value, sigma = table[:, 3], table[:, 4]
    wrong = np.flatnonzero(~(abs(value) < _MOST_VALUE))
    if len(wrong):
        first = tuple(table[wrong[0], :3].astype(int).tolist())
        raise ValueError(f"the value of reflection {first} is {value[wrong[0]]:g}, and none is measured to be that")
    above = sigma > 1 / _MOST_VALUE
    known = (sigma < _MOST_VALUE).all() and above.any()
    sigma = np.where(above, sigma, sigma[above].min()) if known else sigma
    return Reflections(table[:, :3].astype(np.int64), value.copy(), sigma if known else None, kind)
