"""Which crystals are too near to a test set to be trained on: one formula, or one prototype.

A key names what two crystals must not share:

    formula C2 H4 O           the reduced formula, D as H
    without hydrogen C2 O     the same without H, which X-ray files often lack
    prototype A B2 C4/227     the amounts of the reduced formula, and the number of the space group

The space group is the one stated and, where it may be another (cells written in P1, artificial crystals
whose atoms are all in special positions), also the one that spglib finds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from phaseray.crystal import Crystal
from phaseray.sources.symmetry import found_number

_H = 1
SYMPREC = 0.01  # Å
# spglib takes seconds for more atoms; the space group stated has to do there, if there is one
MOST_ATOMS = 400


@dataclass(frozen=True)
class HeldOut:
    """The keys of all crystals of the test sets."""

    keys: frozenset[str]

    @classmethod
    def of(cls, crystals: Iterable[Crystal]) -> HeldOut:
        return cls(frozenset(key for crystal in crystals for key in leak_keys(crystal)))

    def shared(self, crystal: Crystal) -> list[str]:
        """The keys that a crystal shares with the test sets, in order; it may be trained on if there are none."""
        formulas = [key for key in formula_keys(crystal) if key in self.keys]
        # symmetry takes a thousand times as long to find as a formula
        return formulas or sorted(key for key in prototype_keys(crystal) if key in self.keys)


def leak_keys(crystal: Crystal) -> list[str]:
    """All keys of a crystal."""
    return [*formula_keys(crystal), *prototype_keys(crystal)]


def formula_keys(crystal: Crystal) -> list[str]:
    """The reduced formula with and without hydrogen."""
    keys = [f"formula {crystal.reduced_formula}"]
    heavy = crystal.numbers != _H
    if heavy.any():
        keys.append(f"without hydrogen {_part(crystal, heavy).reduced_formula}")
    return keys


def prototype_keys(crystal: Crystal) -> list[str]:
    """Anonymous formula and space group number, for the group stated and for the one found."""
    stated = crystal.space_group_number
    numbers = set() if stated in (None, 1) else {stated}
    if not numbers or crystal.n_atoms <= MOST_ATOMS:
        numbers.add(found_number(crystal, SYMPREC) or stated or 1)
    anonymous = anonymous_formula(crystal)
    return [f"prototype {anonymous}/{number}" for number in sorted(n for n in numbers if n)]


def anonymous_formula(crystal: Crystal) -> str:
    """The reduced formula with letters for elements, the rarest first: 'A B2 C4' of MgAl2O4."""
    amounts = sorted((_amount(part) for part in crystal.reduced_formula.split()), key=float)
    letters = (chr(65 + i) if i < 26 else f"({i})" for i in range(len(amounts)))
    return " ".join(letter + ("" if amount == "1" else amount) for letter, amount in zip(letters, amounts, strict=True))


def _amount(part: str) -> str:
    return part.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") or "1"


def _part(crystal: Crystal, which: np.ndarray) -> Crystal:
    return Crystal(
        cell=crystal.cell,
        numbers=crystal.numbers[which],
        positions=crystal.positions[which],
        occupancy=crystal.occupancy[which],
    )
