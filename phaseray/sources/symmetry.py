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


def _dataset(crystal: Crystal, symprec: float) -> Any:
    import spglib

    kinds = np.stack([crystal.numbers, crystal.isotopes, np.rint(1000 * crystal.occupancy).astype(int)], 1)
    _, kind = np.unique(kinds, axis=0, return_inverse=True)
    cell: Any = (crystal.orthogonalization.T, crystal.positions, kind.reshape(-1) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return spglib.get_symmetry_dataset(cell, symprec=symprec)
        except spglib.error.SpglibError:
            return None


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
