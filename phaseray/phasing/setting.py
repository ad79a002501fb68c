"""A map that was phased in P1, brought to the origin and the hand that its space group prescribes.

Phases come out with the origin anywhere. A space group says where its symmetry elements lie: the map is moved until its
own lie there (`AmplitudeSymmetry.origin`), and inverted where the group is one of a pair of hands and the map has the
other. Where no group is given, those are tried that the amplitudes allow and those that the map shows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseray.crystal import orthogonalization_matrix
from phaseray.diffraction.ambiguity import move_origin
from phaseray.phasing.atom_model import Reflections
from phaseray.phasing.problem import PhaseProblem, unit
from phaseray.phasing.space_groups import AllowedGroups
from phaseray.phasing.symmetry import AmplitudeSymmetry, Group

Floats = NDArray[np.float64]

FITS = 0.8
"""Mean correlation of a map with its images, from which on it may have a group."""
WORSE, SLACK = 1.25, 0.03
"""Times what the best group lacks of a correlation of 1, and beyond: a larger group may lack as much."""
_LEAST = (0.8, 0.9, 0.95)  # correlations of a map with its image, for an operation
_LIKELY = 8


@dataclass(frozen=True, eq=False)
class Placed:
    """A map about the origin of a space group.

    Attributes
    ----------
    phases : (nx, ny, nz') complex64
        Unit phases, with the signs of `problem`; 1 where nothing is measured.
    space_group : gemmi.SpaceGroup
        P1 where none was found in a setting of the tables.
    group : Group
        Its operations, modulo the lattice.
    centrings : (c, 3)
        Translations of the lattice.
    correlation : float
        Mean over the operations, of the map with its image: 1 for a map that has the group exactly.
    point : (3,)
        Fractional: where the origin was in the map as it came.
    inverted : bool
    """

    phases: Tensor
    space_group: gemmi.SpaceGroup
    group: Group
    centrings: Floats
    correlation: float
    point: Floats
    inverted: bool


def with_inversion_at_origin(space_group: gemmi.SpaceGroup) -> gemmi.SpaceGroup:
    """The same group with its origin on the inversion centre, where the tables have two choices of origin."""
    if space_group.ext != "1":
        return space_group
    other = gemmi.find_spacegroup_by_name(f"{space_group.hm}:2")
    return space_group if other is None else other


def in_space_group(
    problem: PhaseProblem, phases: Tensor, space_group: gemmi.SpaceGroup, symmetry: AmplitudeSymmetry | None = None
) -> Placed:
    """The map of unit phases (nx, ny, nz') about the origin of a space group, in its other hand where that fits.

    Raises
    ------
    ValueError
        The amplitudes do not have the symmetry of the group.
    """
    symmetry = symmetry or AmplitudeSymmetry(problem)
    group = _group(space_group)
    known = {rotation.tobytes() for rotation in symmetry.rotations}
    if any(rotation.tobytes() not in known for rotation in group.rotations):
        raise ValueError(f"the amplitudes do not have the symmetry of {space_group.xhm()}")
    f = problem.structure_factors(phases)
    point, inverted, correlation = symmetry.origin(f, group)
    moved = move_origin(f.conj().resolve_conj() if inverted else f, tuple(point if inverted else -point))
    return Placed(
        phases=torch.where(problem.measured, unit(moved), torch.ones_like(moved)), space_group=space_group,
        group=group, centrings=_centrings(space_group), correlation=correlation, point=point, inverted=inverted,
    )  # fmt: skip


def in_found_space_group(problem: PhaseProblem, phases: Tensor) -> Placed:
    """The same for the space group that a map turns out to have: the largest that fits, P1 if none does.

    Groups are those that the amplitudes make likely and those that the map shows, in any setting of the tables that
    has the cell as it is given.
    """
    allowed = AllowedGroups(problem, Reflections.of(problem))
    symmetry = AmplitudeSymmetry(problem)
    f = problem.structure_factors(phases)
    candidates = [*allowed.likely[:_LIKELY], *symmetry.groups(f, _LEAST)]
    found = []
    settings = {s.xhm(): s for group in candidates for s in settings_of(problem.cell, group, symmetry.centrings)}
    for setting in settings.values():
        try:
            placed = in_space_group(problem, phases, setting, symmetry)
        except ValueError:
            continue
        if len(placed.group) > 1 and placed.correlation >= FITS:
            found.append(placed)
    if not found:
        return in_space_group(problem, phases, gemmi.SpaceGroup("P 1"), symmetry)
    # the false centre of inversion of a heavy atom fits worse than the true operations
    least = 1 - WORSE * (1 - max(placed.correlation for placed in found)) - SLACK
    found = [placed for placed in found if placed.correlation >= least]
    return max(found, key=lambda placed: (len(placed.group), placed.correlation))


def settings_of(cell: Floats, group: Group, centrings: Floats) -> list[gemmi.SpaceGroup]:
    """The settings of the tables that a group has in this cell, about whatever origin; both of a pair of hands."""
    import spglib

    rotations = np.concatenate([group.rotations] * len(centrings))
    translations = np.concatenate([group.translations + centring for centring in centrings]) % 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            kind = spglib.get_spacegroup_type_from_symmetry(
                rotations.astype("intc"), translations, orthogonalization_matrix(cell).T, symprec=1e-2
            )
        except spglib.error.SpglibError:
            return []
    if kind is None:
        return []
    own = {rotation.tobytes() for rotation in group.rotations}
    found = []
    for setting in gemmi.spacegroup_table():
        if setting.number != kind.number or setting.ext == "1":  # of two origins, that on the inversion centre
            continue
        same = {rotation.tobytes() for rotation in _group(setting).rotations} == own
        if same and _same_translations(_centrings(setting), centrings):
            found.append(setting)
    return found


def _same_translations(a: Floats, b: Floats) -> bool:
    off = a[:, None] - b
    off -= np.rint(off)
    return len(a) == len(b) and bool((abs(off).max(-1).min(1) < 1e-3).all())


def _group(space_group: gemmi.SpaceGroup) -> Group:
    ops: Sequence[gemmi.Op] = space_group.operations().sym_ops
    rotations = np.array([op.rot for op in ops], np.int64) // gemmi.Op.DEN
    return Group(rotations, np.array([op.tran for op in ops]) / gemmi.Op.DEN)


def _centrings(space_group: gemmi.SpaceGroup) -> Floats:
    found: Floats = np.array(space_group.operations().cen_ops) / gemmi.Op.DEN
    return found
