"""The symmetry of cells that were written without it, found by spglib."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Crystal, Floats

Rotations = NDArray[np.int64]


def recover_symmetry(crystal: Crystal, symprec: float = 0.01) -> Crystal:
    """The same atoms, with the space group that they have.

    A crystal whose space group is known to be other than P1 comes back as it is. The number is set
    to what spglib finds; the symbol too, if the operators of one of its settings (International
    Tables A) hold in the cell and at the origin as given, else it is None. Occupancies and isotopes
    count as kinds of atoms; displacements are not looked at. A note says what was found, or why not.

    Parameters
    ----------
    symprec : float
        How far atoms may be from where symmetry wants them, Å.
    """
    if crystal.space_group_number not in (None, 1):
        return crystal
    dataset = _dataset(crystal, symprec)
    if dataset is None:
        return replace(
            crystal, notes=(*crystal.notes, f"No symmetry could be found by spglib (symprec {symprec:g} Å).")
        )
    number = int(dataset.number)
    rotations, translations = np.asarray(dataset.rotations, np.int64), np.asarray(dataset.translations, float)
    symbol = _setting(number, rotations, translations, crystal.orthogonalization, symprec)
    if number == 1:
        return replace(crystal, space_group=symbol, space_group_number=1)
    setting = "in this setting" if symbol else "in another setting than that of the cell"
    note = (
        f"Space group {symbol or dataset.international} ({number}), {setting}: found by spglib (symprec {symprec:g} Å)."
    )
    return replace(crystal, space_group=symbol, space_group_number=number, notes=(*crystal.notes, note))


def found_number(crystal: Crystal, symprec: float = 0.01) -> int | None:
    """The number of the space group that spglib finds in the atoms, whatever is stated; None where it finds none."""
    dataset = _dataset(crystal, symprec)
    return None if dataset is None else int(dataset.number)


def _dataset(crystal: Crystal, symprec: float) -> Any:
    import spglib

    positions, kind = _sites(crystal)
    cell: Any = (crystal.orthogonalization.T, positions, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return spglib.get_symmetry_dataset(cell, symprec=symprec)
        except spglib.error.SpglibError:
            return None


def _sites(crystal: Crystal) -> tuple[Floats, NDArray[np.int64]]:
    """(m, 3) positions, and (m,) numbers that tell kinds apart; atoms that share a place are one kind of their own."""
    atoms = np.stack([crystal.numbers, crystal.isotopes, np.rint(1000 * crystal.occupancy).astype(int)], 1)
    # places closer than 1e-4 of an edge are one: files that mean the same place repeat the same digits
    places, first, place = np.unique(
        np.rint(crystal.positions * 10_000).astype(int) % 10_000, axis=0, return_index=True, return_inverse=True
    )
    if len(places) == len(atoms):
        _, kind = np.unique(atoms, axis=0, return_inverse=True)
        return crystal.positions, kind.reshape(-1) + 1
    mixtures: list[list[tuple[int, ...]]] = [[] for _ in places]
    for i, atom in zip(place.reshape(-1).tolist(), atoms.tolist(), strict=True):
        mixtures[i].append(tuple(atom))
    known: dict[tuple[tuple[int, ...], ...], int] = {}
    kinds = [known.setdefault(tuple(sorted(mixture)), len(known) + 1) for mixture in mixtures]
    return crystal.positions[first], np.array(kinds)


def _setting(
    number: int, rotations: Rotations, translations: Floats, orthogonalization: Floats, symprec: float
) -> str | None:
    """The symbol of the setting whose operators these are, to within `symprec` Å."""
    for symbol, known_rotations, known_translations in _settings(number):
        if len(known_rotations) != len(rotations):
            continue
        same = (rotations[:, None] == known_rotations[None]).all((2, 3))
        delta = translations[:, None] - known_translations[None]
        apart = np.linalg.norm((delta - np.rint(delta)) @ orthogonalization.T, axis=-1)
        # the operators are those of the rounded structure: twice the tolerance
        if (same & (apart < 2 * symprec)).any(1).all():
            return symbol
    return None


@lru_cache(maxsize=32)
def _settings(number: int) -> list[tuple[str, Rotations, Floats]]:
    """Symbol, (m, 3, 3) rotations and (m, 3) translations of every setting of a space group."""
    found = []
    for group in gemmi.spacegroup_table():
        if group.number == number:
            operators = list(group.operations())
            rotations = np.array([op.rot for op in operators]) // gemmi.Op.DEN
            found.append((group.xhm(), rotations, np.array([op.tran for op in operators]) / gemmi.Op.DEN))
    return found
