"""The sites of the asymmetric unit as arrays: elements, coordinates, occupancies, displacements."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Floats, Ints, Rejection
from phaseray.sources.cif_elements import element_of

_NULL = ("?", ".", "")
# Refined to a shade over 1 or under 0: the same thing within its standard uncertainty.
OCCUPANCY_TOLERANCE = 0.05
_as_number = gemmi.cif.as_number


@dataclass(frozen=True, eq=False)
class Sites:
    """n sites of the asymmetric unit; occupancies are chemical (1: always there), never divided by multiplicity."""

    labels: list[str]
    numbers: Ints  # (n,)
    isotopes: Ints  # (n,)
    positions: Floats  # (n, 3)
    occupancy: Floats  # (n,)
    disorder: list[tuple[str, str]] | None  # (assembly, group) of each
    general: NDArray[np.bool_]  # (n,) where the file says that the site is on no special position

    def __len__(self) -> int:
        return len(self.labels)


class Table:
    """A loop of a CIF block (or its single row given as tag and value) by lower-case tag without its prefix."""

    def __init__(self, block: gemmi.cif.Block, prefix: str, keys: tuple[str, ...]) -> None:
        self.values: list[str] = []
        self.columns: dict[str, int] = {}
        self.tags: list[str] = []
        n = len(prefix)
        for key in keys:
            for separator in "_.":
                column = block.find_values(prefix + separator + key)
                if not column:
                    continue
                loop = column.get_loop()
                if loop is not None:
                    self.values = loop.values
                    self.tags = tags = loop.tags
                else:
                    pairs = [item.pair for item in block if item.pair and item.pair[0].lower().startswith(prefix)]
                    tags = [tag for tag, _ in pairs]
                    self.values = [value for _, value in pairs]
                self.columns = {t.lower()[n + 1 :].replace(".", "_"): i for i, t in enumerate(tags)}
                return

    def __len__(self) -> int:
        return len(self.values) // len(self.columns) if self.columns else 0

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def raw(self, name: str) -> list[str] | None:
        """The column as it is in the file, or None."""
        index = self.columns.get(name)
        return None if index is None else self.values[index :: len(self.columns)]

    def text(self, name: str) -> list[str] | None:
        """The column without quotes; '' for ? and . (unknown and inapplicable)."""
        raw = self.raw(name)
        if raw is None:
            return None
        return ["" if v in _NULL else v if v[0] not in "'\";" else gemmi.cif.as_string(v) for v in raw]

    def numbers(self, *names: str) -> Floats | None:
        """(n, len(names)) columns as numbers without their standard uncertainties; NaN where there is none."""
        indices = [self.columns.get(name, -1) for name in names]
        if min(indices) < 0:
            return None
        width = len(self.columns)
        return np.array([list(map(_as_number, self.values[i::width])) for i in indices]).T

    def is_last_of(self, block: gemmi.cif.Block) -> bool:
        """Whether nothing follows the loop in its block: then the file may have been cut within it."""
        last = block[-1].loop
        return last is not None and last.tags == self.tags

    @cached_property
    def label(self) -> list[str]:
        return self.text("label") or self.text("type_symbol") or [""] * len(self)


def read_sites(table: Table, formula: frozenset[str], notes: list[str]) -> tuple[Sites, NDArray[np.intp]]:
    """Sites that hold atoms, and their rows in the file's loop: dummies and empty sites are left out.

    Raises
    ------
    Rejection
        no_atoms, bad_coordinates, unknown_element, bad_occupancy.
    """
    positions = table.numbers("fract_x", "fract_y", "fract_z")
    if positions is None or not len(table):
        cartesian = " (Cartesian coordinates are not read)" if "cartn_x" in table else ""
        raise Rejection("no_atoms", f"the file lists no atoms with fractional coordinates{cartesian}")
    labels = table.label
    kept = np.ones(len(table), bool)
    flags = table.text("calc_flag")
    if flags and "dum" in flags:
        kept &= np.array([flag != "dum" for flag in flags])
        notes.append(f"{(~kept).sum()} dummy sites (calc_flag dum) were left out.")
    unknown = ~np.isfinite(positions).all(1)
    if not (kept & ~unknown).any():
        raise Rejection("no_atoms", "no site of the file holds an atom with coordinates")
    occupancy = _occupancy(table, kept, notes)
    numbers, isotopes = _elements(table, kept, formula, notes)
    if unknown.any():
        _judge_missing_coordinates(table, unknown & kept, numbers, notes)
        kept &= ~unknown
    if not kept.any():
        raise Rejection("no_atoms", "no site of the file holds an atom with coordinates")
    # Beyond this the fraction has no digits left (and a typing error is likelier than an atom).
    if np.abs(positions[kept]).max() > 1000:
        raise Rejection("bad_coordinates", "fractional coordinates over 1000: are they in Å?")

    rows = np.flatnonzero(kept)
    chosen = rows.tolist()
    disorder = None
    groups = table.text("disorder_group")
    if groups and any(groups):
        assemblies = table.text("disorder_assembly") or [""] * len(table)
        disorder = [(assemblies[i], groups[i]) for i in chosen]
        _judge_disorder(table, disorder, notes)
    labels = [labels[i] for i in chosen]
    general = _stated_general(table)[rows]
    return Sites(labels, numbers[rows], isotopes[rows], positions[rows], occupancy[rows], disorder, general), rows


def _stated_general(table: Table) -> NDArray[np.bool_]:
    """(n,) where the file says that no symmetry operator leaves the site in place."""
    orders = table.numbers("site_symmetry_order")
    if orders is None:
        # SHELXL-97 wrote the order of the site symmetry under the tag of the multiplicity: 1 for most sites.
        orders = table.numbers("symmetry_multiplicity")
        if orders is None or 2 * (orders == 1).sum() <= len(orders):
            return np.zeros(len(table), bool)
    return orders[:, 0] == 1


def _elements(table: Table, kept: NDArray[np.bool_], formula: frozenset[str], notes: list[str]) -> tuple[Ints, Ints]:
    types = table.text("type_symbol") or [""] * len(table)
    numbers, isotopes = np.zeros(len(table), int), np.zeros(len(table), int)
    waters, unsure = [], []
    for i in np.flatnonzero(kept).tolist():
        numbers[i], isotopes[i], remark = element_of(types[i], table.label[i], formula)
        if remark == "water":
            waters.append(table.label[i])
        elif remark:
            unsure.append(remark)
    if waters:
        notes.append(f"Water sites were read as O; their H are not in the file: {_some(waters)}.")
    if unsure:
        notes.append(f"Elements were told from labels alone: {_some(unsure)}.")
    return numbers, isotopes


def _judge_missing_coordinates(table: Table, unknown: NDArray[np.bool_], numbers: Ints, notes: list[str]) -> None:
    if not unknown.any():
        return
    texts = zip(*(table.text(f"fract_{axis}") or [] for axis in "xyz"), strict=True)
    empty = np.array([not any(row) for row in texts])
    # Hydrogens that were not located are commonly listed with '?', and commonly left out altogether.
    hydrogen = unknown & empty & (numbers == 1)
    if (unknown & ~hydrogen).any():
        first = int(np.flatnonzero(unknown & ~hydrogen)[0])
        raise Rejection("bad_coordinates", f"the coordinates of {table.label[first]!r} are missing or no numbers")
    notes.append(f"{hydrogen.sum()} hydrogen atoms without coordinates were left out.")


def _occupancy(table: Table, kept: NDArray[np.bool_], notes: list[str]) -> Floats:
    column = table.numbers("occupancy")
    if column is None:
        return np.ones(len(table))
    occupancy = column[:, 0]
    unknown = np.isnan(occupancy)
    if unknown.any():
        texts = table.text("occupancy") or []
        for i in np.flatnonzero(unknown & kept).tolist():
            if texts[i]:
                raise Rejection("bad_occupancy", f"the occupancy of {table.label[i]!r} is {texts[i]!r}, no number")
        if (unknown & kept).any():
            notes.append(f"The occupancies of {(unknown & kept).sum()} sites are not stated; they were taken to be 1.")
        occupancy = np.where(unknown, 1.0, occupancy)
    if occupancy.min() > 0 and occupancy.max() <= 1:
        return occupancy
    bad = kept & ((occupancy < -OCCUPANCY_TOLERANCE) | (occupancy > 1 + OCCUPANCY_TOLERANCE))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise Rejection("bad_occupancy", f"the occupancy of {table.label[first]!r} is {occupancy[first]:g}")
    over = kept & (occupancy > 1)
    if over.any():
        notes.append(f"{over.sum()} occupancies slightly over 1 were set to 1.")
    empty = kept & (occupancy <= 0)
    if empty.any():
        notes.append(f"{empty.sum()} sites with occupancy 0 were left out: {_some_of(table.label, empty)}.")
        kept &= ~empty
    return occupancy.clip(max=1.0)


def _judge_disorder(table: Table, disorder: list[tuple[str, str]], notes: list[str]) -> None:
    if "occupancy" in table:
        return
    groups = Counter(assembly for assembly, group in set(disorder) if group)
    if max(groups.values(), default=0) > 1:
        raise Rejection("disorder", "the file names disorder groups but no occupancies, so the shares are not known")
    notes.append("The file names a disorder group but no occupancies; they were taken to be 1.")


def _some_of(labels: list[str], mask: NDArray[np.bool_]) -> str:
    return _some([labels[i] for i in np.flatnonzero(mask).tolist()])


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
