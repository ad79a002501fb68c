"""The sites of the asymmetric unit as arrays: elements, coordinates, occupancies, displacements."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Floats, Ints, Rejection
from phaseray.sources.cif_elements import element_of, plain_element
from phaseray.sources.cif_table import Table

# Refined to a shade over 1 or under 0: the same thing within its standard uncertainty.
OCCUPANCY_TOLERANCE = 0.05


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
    unknown = np.isnan(positions).any(1)
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
    general: NDArray[np.bool_] = orders[:, 0] == 1
    return general


def _elements(table: Table, kept: NDArray[np.bool_], formula: frozenset[str], notes: list[str]) -> tuple[Ints, Ints]:
    labels = table.label
    types = table.text("type_symbol") or [""] * len(labels)
    everything = bool(kept.all())
    found: list[tuple[int, int, str]] = [(0, 0, "")] * len(labels)
    plain = {symbol: plain_element(symbol, formula) for symbol in set(types)}
    if everything and None not in plain.values():
        found = [plain[symbol] for symbol in types]  # type: ignore[misc]
    else:
        for i in np.flatnonzero(kept).tolist():
            found[i] = plain[types[i]] or element_of(types[i], labels[i], formula)
    numbers, isotopes = (np.array(column) for column in list(zip(*found, strict=True))[:2])
    waters = [labels[i] for i, (_, _, remark) in enumerate(found) if remark == "water"]
    unsure = [remark for _, _, remark in found if remark and remark != "water"]
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
