"""What intensities leave open: where the origin is, and which hand.

Moving a crystal by t multiplies F(h) by exp(2πi h·t); inverting it conjugates F. Neither changes
|F|. In P1 every translation is allowed; a higher group allows only those that map its symmetry
elements onto equivalent ones.
"""

from __future__ import annotations

from fractions import Fraction

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.backend import Array, namespace
from phaseray.diffraction.grid import Shape

SpaceGroup = str | int | gemmi.SpaceGroup

# Permissible origins are multiples of 1/2, 1/3 and 1/4 (IT A, table 3.5.2.3), hence of 1/12;
# 1/24 leaves room for unconventional settings.
_FINE = 24


def move_origin(f: Array, shift: tuple[float, float, float]) -> Array:
    """F on the half grid (…, nx, ny, nz // 2 + 1) of the crystal moved by `shift` (fractional)."""
    xp = namespace(f)
    nx, ny, half = f.shape[-3:]
    phase = (
        np.multiply.outer(np.fft.fftfreq(nx, 1 / nx) * shift[0], np.ones((ny, half)))
        + (np.fft.fftfreq(ny, 1 / ny) * shift[1])[:, None]
        + np.arange(half) * shift[2]
    )
    ramp = np.exp(2j * np.pi * phase)
    return f * xp.asarray(ramp.astype(np.complex64 if f.dtype == xp.complex64 else np.complex128))


def other_hand(f: Array) -> Array:
    """F of the crystal inverted through the origin."""
    return namespace(f).conj(f)


def inverted(rho: Array) -> Array:
    """ρ(-x) of maps (…, nx, ny, nz)."""
    xp = namespace(rho)
    axes = (-3, -2, -1)
    return xp.roll(xp.flip(rho, axis=axes), (1, 1, 1), axis=axes)


def space_group(name: SpaceGroup) -> gemmi.SpaceGroup:
    """gemmi's space group, from a symbol, a number or itself; ValueError where there is none."""
    if isinstance(name, gemmi.SpaceGroup):
        return name
    found = gemmi.find_spacegroup_by_number(name) if isinstance(name, int) else gemmi.find_spacegroup_by_name(name)
    if found is None:
        raise ValueError(f"no space group {name!r} is known; give a Hermann-Mauguin or Hall symbol, or a number")
    return found


def allowed_origins(group: SpaceGroup) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Translations that map every symmetry element of a space group onto an equivalent one.

    t is allowed where (I - R) t is a lattice vector (centrings included) for every operator (R|w).

    Returns
    -------
    origins : (k, 3) float64
        Fractional shifts in [0, 1), the lattice's own centrings included; (0, 0, 0) is the first.
        Along polar directions only the representative 0 is listed.
    polar : (p, 3) int64
        Directions along which any shift is allowed (all three axes in P1).
    """
    rotations, centrings = _operators(space_group(group))
    polar = _null_space(rotations)
    steps = np.indices((_FINE,) * 3).reshape(3, -1).T
    allowed = steps[_commutes(steps / _FINE, rotations, centrings)]
    if len(polar):
        # of each set that differs by a polar shift keep the first
        free = (np.multiply.outer(np.arange(_FINE), p) for p in polar)
        spread = np.zeros((1, 3), int)
        for line in free:
            spread = (spread[:, None] + line).reshape(-1, 3)
        seen: set[bytes] = set()
        kept = []
        for shift in allowed:
            if shift.tobytes() not in seen:
                kept.append(shift)
                seen.update(s.tobytes() for s in (shift + spread) % _FINE)
        allowed = np.array(kept)
    return allowed / _FINE, polar


def allowed_shifts(group: SpaceGroup, shape: Shape) -> NDArray[np.int64]:
    """(k, 3) whole grid steps by which a map of this group may be moved; all of them in P1.

    Only shifts that fall on the grid are given: a grid of odd sides holds no (1/2, 0, 0).
    """
    rotations, centrings = _operators(space_group(group))
    steps = np.indices(shape).reshape(3, -1).T
    return steps[_commutes(steps / np.asarray(shape), rotations, centrings)]


def _operators(group: gemmi.SpaceGroup) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rotations (r, 3, 3) without repetition, and centring vectors (c, 3)."""
    ops = group.operations()
    rotations = np.array([op.rot for op in ops.sym_ops]) // gemmi.Op.DEN
    return np.unique(rotations, axis=0), np.array(ops.cen_ops) / gemmi.Op.DEN


def _commutes(
    shifts: NDArray[np.float64], rotations: NDArray[np.int64], centrings: NDArray[np.float64]
) -> NDArray[np.bool_]:
    allowed = np.ones(len(shifts), bool)
    for rotation in rotations:
        moved = shifts - shifts @ rotation.T
        near = np.zeros(len(shifts), bool)
        for centring in centrings:
            rest = moved - centring
            near |= (np.abs(rest - np.round(rest)) < 1e-6).all(1)
        allowed &= near
    return allowed


def _null_space(rotations: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole-number basis of the vectors that every rotation leaves unchanged."""
    rows = [[Fraction(int(v)) for v in row] for r in rotations for row in (np.eye(3, dtype=int) - r)]
    pivots: list[int] = []
    for column in range(3):
        rank = len(pivots)
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        rows[rank] = [v / rows[rank][column] for v in rows[rank]]
        for i in range(len(rows)):
            if i != rank and rows[i][column]:
                scale = rows[i][column]
                rows[i] = [a - scale * b for a, b in zip(rows[i], rows[rank], strict=True)]
        pivots.append(column)
    basis = []
    for free in (c for c in range(3) if c not in pivots):
        vector = [Fraction(0)] * 3
        vector[free] = Fraction(1)
        for rank, column in enumerate(pivots):
            vector[column] = -rows[rank][free]
        scale = np.lcm.reduce([v.denominator for v in vector])
        basis.append([int(v * scale) for v in vector])
    return np.array(basis, dtype=np.int64).reshape(-1, 3)
