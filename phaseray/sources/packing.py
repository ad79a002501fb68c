"""Rigid bodies packed under a space group: the cell shrinks while they push one another out of the way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from phaseray.sources.periodic import lattice_vectors
from phaseray.sources.space_groups import SpaceGroup, crystal_system

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LOOSE = 1.9  # times the usual volume, at first
_SHRINKING, _SETTLING, _GROWING = 22, 10, 14  # steps
_CLOSEST = 0.82  # of the contact distances, in the end
_GROWTH = 1.03  # of the volume, a step
_LONGEST_STEP = 0.35  # Å
_LARGEST_TURN = 0.15  # radians
_RESHAPING = 0.02  # largest change of the logarithm of an edge, a step
_BONDED = 1e-3  # Å: the other half of a body on a centre has the same centre


@dataclass(frozen=True, eq=False)
class Bodies:
    """The molecules of an asymmetric unit.

    Attributes
    ----------
    numbers : list of (n_b,) atomic numbers
    places : list of (n_b, 3) Cartesian Å about the centre
    centres : (b, 3) fractions
    fixed : (b,) bool: stays where it is, turning only
    contact : (n, n) usual distances in Å of all atoms, body after body
    """

    numbers: list[Ints]
    places: list[Floats]
    centres: Floats
    fixed: NDArray[np.bool_]
    contact: Floats


def pack(group: SpaceGroup, axes: Floats, volume: float, bodies: Bodies) -> tuple[Floats, Bodies] | None:
    """Axes (3, 3; columns, Å) and bodies, packed to `volume` (Å³) or as near to it as contacts allow.

    None where atoms of different bodies stay nearer than _CLOSEST of their contact distance.
    `axes` give the shape; edges that the crystal system leaves free change on the way.
    """
    m = axes * (_LOOSE * volume / np.linalg.det(axes)) ** (1 / 3)
    for step in range(_SHRINKING + _SETTLING + _GROWING):
        moved, closest, strain = _pushed(group, m, bodies)
        settled = step >= _SHRINKING + _SETTLING
        if settled and closest >= _CLOSEST:
            return m, bodies
        bodies = moved
        if not settled:
            target = volume * (1 + (_LOOSE - 1) * max(0.0, 1 - (step + 1) / _SHRINKING))
        else:
            target = float(np.linalg.det(m)) * _GROWTH
        m = _reshaped(group, m, strain)
        m = m * (target / np.linalg.det(m)) ** (1 / 3)
    return None


def _reshaped(group: SpaceGroup, m: Floats, strain: Floats) -> Floats:
    """Edges that are pressed grow and others shrink, where the system leaves them free."""
    if crystal_system(group.number) not in ("triclinic", "monoclinic", "orthorhombic") or group.symbol is None:
        return m
    change = strain - strain.mean()
    most = np.abs(change).max()
    return m if most == 0 else m * np.exp(_RESHAPING * change / most)


def _pushed(group: SpaceGroup, m: Floats, bodies: Bodies) -> tuple[Bodies, float, Floats]:
    """Bodies after a step, the closest contact over what is usual, before it, and how much each axis is pressed."""
    inverse = np.linalg.inv(m)
    turns = m @ group.rotations @ inverse
    reach = [float(np.linalg.norm(p, axis=1).max()) for p in bodies.places]
    vectors = lattice_vectors(m, 2 * max(reach) + 4.0)
    ends = np.cumsum([0, *(len(p) for p in bodies.places)])
    images = np.einsum("mij,bj->bmi", group.rotations, bodies.centres) + group.translations
    closest, strain = np.inf, np.zeros(3)
    places, centres = [], bodies.centres.copy()
    for i, own in enumerate(bodies.places):
        force, torque = np.zeros(3), np.zeros(3)
        for j, other in enumerate(bodies.places):
            delta = images[j] - bodies.centres[i]
            from_i = ((delta - np.rint(delta)) @ m.T)[:, None] + vectors
            distance = np.linalg.norm(from_i, axis=-1)
            near = distance < reach[i] + reach[j] + 3.6
            if i == j:
                # itself, and the other half of a body on a centre
                near &= distance > _BONDED
            operator, lattice = np.nonzero(near)
            if not len(operator):
                continue
            offset = from_i[operator, lattice]
            atoms = np.einsum("kij,nj->kni", turns[operator], other) + offset[:, None]
            vector = own[None, :, None] - atoms[:, None]
            length = np.sqrt(np.einsum("kabx,kabx->kab", vector, vector)) + 1e-6
            wanted = bodies.contact[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]
            closest = min(closest, float((length / wanted).min()))
            push = np.maximum(wanted - length, 0.0) / length
            on_atoms = np.einsum("kab,kabx->kax", push, vector)
            pair = on_atoms.sum(1)
            force += pair.sum(0)
            torque += np.cross(own, on_atoms.sum(0)).sum(0)
            # work done against these contacts when an axis grows: offset's share along it
            strain -= ((offset @ inverse.T) * (pair @ m)).sum(0)
        shift, turn = 0.3 * force, 0.6 * torque / ((own**2).sum() / 3 + 1.0)
        if not bodies.fixed[i]:
            centres[i] += inverse @ (shift * min(1.0, float(_LONGEST_STEP / (np.linalg.norm(shift) + 1e-9))))
        turn *= min(1.0, float(_LARGEST_TURN / (np.linalg.norm(turn) + 1e-9)))
        places.append(own @ Rotation.from_rotvec(turn).as_matrix().T)
    return replace(bodies, places=places, centres=centres), closest, strain
