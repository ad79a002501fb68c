"""Atoms fitted to the Fourier coefficients of a map, amplitudes and phases, by damped least squares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import orthogonalization_matrix

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]

MODEL_ERROR = 0.1
"""Of a coefficient, relative to their root mean square: errors of phases too. Larger: each b is held tighter."""
SPREAD_OF_B = 2.0
"""Å²: how far the fall-off of one atom is from that of the others, elements and displacements together."""
_LONGEST = 0.3  # Å of one step: further, the linear equations hold nothing
_MOST_CONJUGATE, _ENOUGH = 25, 1e-3  # steps, and share of the squared gradient left


@dataclass(frozen=True, eq=False)
class Atoms:
    """Fractional positions (n, 3), heights (n,), and b (n,) in Å²: an atom is height · shape(s) exp(-b s²)."""

    positions: Floats
    heights: Floats
    b: Floats

    def __len__(self) -> int:
        return len(self.heights)

    def chosen(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Atoms:
        return Atoms(self.positions[which], self.heights[which], self.b[which])

    def joined(self, other: Atoms) -> Atoms:
        return Atoms(
            np.concatenate([self.positions, other.positions]),
            np.concatenate([self.heights, other.heights]),
            np.concatenate([self.b, other.b]),
        )

    @property
    def mean_b(self) -> float:
        """Å², by height."""
        return float(self.b @ self.heights / self.heights.sum()) if len(self.heights) else 0.0


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The coefficients of a map that atoms are fitted to.

    Attributes
    ----------
    cell : (6,)
        Å and degrees.
    hkl : (m, 3) float64
        Whole numbers, one of each Friedel pair, without 000.
    f : (m,) complex128
        F = Σ height · shape · exp(-b s²) · exp(+2πi h·x); electrons, if the map is in e/Å³.
    s2 : (m,) float64
        (sin θ/λ)² in Å⁻².
    shape : (m,) float64
        How a typical atom falls off, 1 at s = 0.
    weight : (m,) float64
        Of |F - Fc|².
    """

    cell: Floats
    hkl: Floats
    f: Complexes
    s2: Floats
    shape: Floats
    weight: Floats

    @cached_property
    def turns(self) -> Floats:
        """(m, 3) 2π h on Cartesian axes: rad/Å."""
        turns: Floats = 2 * np.pi * self.hkl @ np.linalg.inv(orthogonalization_matrix(self.cell))
        return turns

    @cached_property
    def norm(self) -> float:
        """Σ weight |F|²."""
        return float(self.weight @ abs(self.f) ** 2)

    def waves(self, atoms: Atoms) -> Floats:
        """(2, m, n): real and imaginary parts of the coefficients of each atom, were its height 1."""
        angle = 2 * np.pi * (self.hkl @ atoms.positions.T)
        size = self.shape[:, None] * np.exp(np.multiply.outer(-self.s2, atoms.b))
        return np.stack([size * np.cos(angle), size * np.sin(angle)])

    def residual(self, atoms: Atoms) -> Complexes:
        """(m,) F - Fc."""
        real, imaginary = self.waves(atoms) @ atoms.heights
        rest: Complexes = self.f - (real + 1j * imaginary)
        return rest

    def misfit(self, atoms: Atoms) -> float:
        """Σ weight |F - Fc|² over Σ weight |F|²."""
        return float(self.weight @ abs(self.residual(atoms)) ** 2) / self.norm


def refined(data: Coefficients, atoms: Atoms, cycles: int) -> Atoms:
    """Heights, positions and b after at most `cycles` steps of Levenberg and Marquardt that lower the misfit.

    Each b is drawn to the mean of all, so that it is fitted only as far as the data ask for it. Heights stay above 0.
    """
    if not len(atoms):
        return atoms
    pull, mean_b = MODEL_ERROR**2 / len(data.s2) / SPREAD_OF_B**2, atoms.mean_b
    now = Linearised(data, atoms, pull, mean_b)
    damping, tries = 1e-3, cycles + 4
    for _ in range(cycles):
        gained = 0.0
        while tries and not gained > 0:
            tries -= 1
            then = Linearised(data, _moved(now.atoms, now.step(damping), data.cell), pull, mean_b)
            gained = now.cost - then.cost
            damping = max(damping / 10, 1e-7) if gained > 0 else damping * 10
        if not gained > 0:
            break
        now = then
        if gained < 1e-3 * now.cost:
            break
    return now.atoms


class Linearised:
    """The fit around one set of atoms: its cost, and the step that would be best if the rest were linear.

    The unknowns (5, n) are heights, Cartesian x, y and z in Å, and b.
    """

    def __init__(self, data: Coefficients, atoms: Atoms, pull: float, mean_b: float) -> None:
        self.data, self.atoms, self.pull = data, atoms, pull
        self._root = np.sqrt(data.weight / data.norm)
        waves = data.waves(atoms)
        real, imaginary = waves @ atoms.heights
        self._rest = self._root * np.stack([data.f.real - real, data.f.imag - imaginary])
        self._waves = waves
        self._off = atoms.b - mean_b
        self.cost = float((self._rest**2).sum()) + pull * float((self._off**2).sum())

    def forward(self, v: Floats) -> Floats:
        """(2, m) change of the weighted coefficients with the unknowns: J v."""
        heights, turns, s2 = self.atoms.heights, self.data.turns, self.data.s2
        real, imaginary = self._waves @ (v * np.stack([np.ones_like(heights), *[heights] * 4])).T
        image: Floats = self._root * np.stack(
            [
                real[:, 0] - (turns * imaginary[:, 1:4]).sum(1) - s2 * real[:, 4],
                imaginary[:, 0] + (turns * real[:, 1:4]).sum(1) - s2 * imaginary[:, 4],
            ]
        )
        return image

    def backward(self, u: Floats) -> Floats:
        """(5, n), Jᵀ u of weighted coefficients (2, m)."""
        heights, turns, s2 = self.atoms.heights, self.data.turns, self.data.s2
        real, imaginary = (self._root * u)[..., None]
        right = np.stack(
            [np.hstack([real, turns * imaginary, -s2[:, None] * real]),
             np.hstack([imaginary, -turns * real, -s2[:, None] * imaginary])]
        )  # fmt: skip
        n = len(heights)
        product: Floats = right.reshape(-1, 5).T @ self._waves.reshape(-1, n)
        product[1:] *= heights
        return product

    def gradient(self) -> Floats:
        """(5, n): minus half the derivatives of the cost."""
        gradient = self.backward(self._rest)
        gradient[4] -= self.pull * self._off
        return gradient

    def blocks(self) -> Floats:
        """(n, 5, 5) of JᵀJ, each atom with itself: the phases of its waves drop out, and x, y, z part from the rest."""
        data, q = self.data, self.atoms.heights
        power = (self._waves**2).sum(0).T * self._root**2
        t = data.turns
        products = np.stack([t[:, i] * t[:, j] for i in range(3) for j in range(3)], 1)
        blocks = np.zeros((len(q), 5, 5))
        blocks[:, 0, 0] = power.sum(1)
        blocks[:, 1:4, 1:4] = (q[:, None] ** 2 * (power @ products)).reshape(-1, 3, 3)
        blocks[:, 0, 4] = blocks[:, 4, 0] = -q * (power @ data.s2)
        blocks[:, 4, 4] = q**2 * (power @ data.s2**2) + self.pull
        return blocks

    def step(self, damping: float) -> Floats:
        """(5, n) of the damped equations (JᵀJ + pull + damping · diagonal) v = gradient, by conjugate gradients."""
        blocks = self.blocks()
        diagonal = np.einsum("nii->in", blocks)
        # a unit a parameter: an atom of next to no height has next to no equation
        extra = damping * diagonal + 1e-9 * diagonal.max(1, keepdims=True)
        inverse = np.linalg.inv(blocks + np.einsum("in,ij->nij", extra, np.eye(5)))
        rest = self.gradient()
        v = np.zeros_like(rest)
        direction = better = np.einsum("nij,jn->in", inverse, rest)
        size = start = float((rest * better).sum())
        for _ in range(_MOST_CONJUGATE):
            if not size > _ENOUGH * start:
                break
            image = self.backward(self.forward(direction)) + extra * direction
            image[4] += self.pull * direction[4]
            length = size / float((direction * image).sum())
            v = v + length * direction
            rest = rest - length * image
            better = np.einsum("nij,jn->in", inverse, rest)
            size, before = float((rest * better).sum()), size
            direction = better + size / before * direction
        return v


def _moved(atoms: Atoms, step: Floats, cell: Floats) -> Atoms:
    shift = step[1:4].T
    length = np.linalg.norm(shift, axis=1, keepdims=True)
    shift = shift * np.minimum(1, _LONGEST / np.maximum(length, 1e-12))
    return Atoms(
        atoms.positions + shift @ np.linalg.inv(orthogonalization_matrix(cell)).T,
        np.maximum(atoms.heights + step[0], 0.1 * atoms.heights),
        np.clip(atoms.b + np.clip(step[4], -2, 2), -8, 16),
    )
