"""What a CIF says of its space group, in up to four ways, and which of them counts."""

from __future__ import annotations

from functools import lru_cache

import gemmi
import numpy as np

from phaseray.crystal import Floats, Rejection
from phaseray.sources.cif_symmetry import Symmetry, shared_operators, symmetry_from_hall, symmetry_from_triplets

_OPERATORS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz", "_space_group_symop.operation_xyz")
_H_M = (
    "_symmetry_space_group_name_H-M",
    "_space_group_name_H-M_alt",
    "_space_group.name_H-M_alt",
    "_space_group_name_H-M",
)
_HALL = ("_symmetry_space_group_name_Hall", "_space_group_name_Hall", "_space_group.name_Hall")
_NUMBER = ("_symmetry_Int_Tables_number", "_space_group_IT_number", "_space_group.IT_number")

Group = tuple[Symmetry, str | None, int | None]


def space_groups(block: gemmi.cif.Block, cell: Floats, notes: list[str]) -> list[Group]:
    """The group with its H-M symbol and number; several where a symbol alone leaves the origin open.

    Operators count more than the Hall symbol, that more than the H-M symbol, and that more than the number.

    Parameters
    ----------
    cell : (6,)
        As in the file: α and γ tell which setting of a rhombohedral group is meant. May hold NaN.

    Raises
    ------
    Rejection
        no_symmetry, bad_symmetry.
    """
    hall, h_m, number = value_of(block, *_HALL), value_of(block, *_H_M), value_of(block, *_NUMBER)
    triplets = _operators(block)
    if triplets:
        symmetry = _from_operators(triplets, hall, h_m, cell, notes)
        named = _by_name(h_m, cell)
        if named and symmetry.number and symmetry.number != named.number:
            notes.append(
                f"The file names the space group {h_m}, but its operators are those of {symmetry.space_group}; "
                "the operators were used."
            )
        if symmetry.number:
            return [(symmetry, symmetry.space_group, symmetry.number)]
        return [(symmetry, h_m or None, named.number if named else None)]
    return _from_names(hall, h_m, number, cell, notes)


def value_of(block: gemmi.cif.Block, *tags: str) -> str:
    """The value of the first of the tags that has one, without quotes; '' if none has."""
    for tag in tags:
        raw = block.find_value(tag)
        if raw and raw not in "?.":
            return gemmi.cif.as_string(raw).strip()
    return ""


def _operators(block: gemmi.cif.Block) -> tuple[str, ...]:
    for tag in _OPERATORS:
        raw = tuple(block.find_values(tag))
        if raw and (triplets := _unquoted(raw)):
            return triplets
    return ()


@lru_cache(maxsize=1024)
def _unquoted(raw: tuple[str, ...]) -> tuple[str, ...]:
    """Without quotes; empty if no value is known."""
    triplets = tuple(gemmi.cif.as_string(value) for value in raw)
    return () if set(triplets) <= {"", "?", "."} else triplets


def _by_name(h_m: str, cell: Floats) -> gemmi.SpaceGroup | None:
    if not h_m:
        return None
    alpha, gamma = (0.0 if np.isnan(angle) else float(angle) for angle in cell[[3, 5]])
    return gemmi.find_spacegroup_by_name(h_m, alpha, gamma)


def _from_operators(triplets: tuple[str, ...], hall: str, h_m: str, cell: Floats, notes: list[str]) -> Symmetry:
    try:
        return symmetry_from_triplets(triplets)
    except Rejection as rejection:
        error = rejection
    try:
        symmetry = symmetry_from_triplets(("x,y,z", *triplets))
    except Rejection:
        pass
    else:
        notes.append("The identity was added to the symmetry operators.")
        return symmetry
    # A misprint in one of them: what the name says must otherwise be what the operators say.
    named = _by_name(h_m, cell)
    for name in (hall, named.hall if named else ""):
        try:
            symmetry = symmetry_from_hall(name)
            shared = shared_operators(triplets, symmetry)
        except Rejection:
            continue
        n = len(triplets)
        if (shared == n and n > 1) or (n == len(symmetry) and shared < n and 3 * shared >= 2 * n):
            notes.append(
                f"The symmetry operators are no group; {shared} of {n} belong to {symmetry.space_group or name}, "
                "which the file names and which was used."
            )
            return symmetry
    raise error


def _from_names(hall: str, h_m: str, number: str, cell: Floats, notes: list[str]) -> list[Group]:
    named = _by_name(h_m, cell)
    if hall:
        try:
            symmetry = symmetry_from_hall(hall)
        except Rejection:
            if not named:
                raise
            notes.append(f"The Hall symbol {hall!r} is none; the H-M symbol was used.")
        else:
            if named and symmetry.number and symmetry.number != named.number:
                raise Rejection(
                    "bad_symmetry",
                    f"the Hall symbol {hall} and the H-M symbol {h_m} are different groups, and there are no operators",
                )
            return [
                (symmetry, symmetry.space_group or h_m or None, symmetry.number or (named.number if named else None))
            ]
    if not h_m and number.isdigit() and 1 <= int(number) <= 230:
        named = _by_name(gemmi.find_spacegroup_by_number(int(number)).hm, cell)
        assert named is not None
        notes.append(f"The space group is given by its number alone; its standard setting {named.xhm()} was used.")
    if not named:
        what = f"the space group symbol {h_m!r} is not known" if h_m else "no space group is named"
        raise Rejection("no_symmetry", f"there are no symmetry operators, and {what}")
    groups = [named]
    if named.ext in ("1", "2") and named.ext not in h_m.partition(":")[2]:
        groups = [g for g in gemmi.spacegroup_table() if g.hm == named.hm and g.ext in ("1", "2")]
    return [(symmetry_from_hall(g.hall), g.xhm(), g.number) for g in groups]
