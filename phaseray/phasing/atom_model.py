"""A model of atoms under a space group, fitted to amplitudes alone: no phase is taken for known.

A map that is nearly right becomes right where few atoms explain all amplitudes: wrong atoms leave a misfit that no
shift of theirs removes. What makes this sharp is how each atom falls off with resolution: its number of electrons
decides that too (`Frame.factors`), so that an atom has three coordinates at most, a number and a displacement.

    Fc(h) = k Σ_a f(Z_a, s) exp(-b_a s²) Σ_x∈orbit exp(2πi h·x)      s = sin θ / λ

Legend: n measured reflections, one of each Friedel pair; m of them that the group does not relate; g operations;
o orbits, each an atom and its images; p parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

from phaseray.crystal import orthogonalization_matrix
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.diffraction.scattering import form_factors
from phaseray.evaluation.atoms_in_maps import overall_b
from phaseray.evaluation.peaks import find_peaks
from phaseray.evaluation.periodic import shortest, shortest_translation
from phaseray.phasing.problem import PhaseProblem
from phaseray.phasing.symmetry import Group

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Complexes = NDArray[np.complex128]
Site = tuple[Floats, int, Floats]
"""Fractional position (3,), operations that keep it, and (3, 3) along what an atom there may move: see `AtomModel`."""

EXACT = 1e-4
"""Squared error of amplitudes over their squares that a right model may have: form factors of neutral atoms, isotropic
displacements. What σ says of the measurement comes on top."""
NEAREST = 0.9
"""Å between atoms."""
HEAVIEST = 98
"""Of the elements that have form factors."""
MERGED = 0.75  # Å: images of a peak nearer than this are one atom in a special position
IN_PLACE = 0.02  # Å, then
_GUESS = 30.0  # electrons of the strongest peak, until the scale is fitted
_SPREAD_OF_B = 1.0  # Å² of one atom from the others'
_COST_OF_B = 0.5  # of a parameter, as it is held to the mean
_COST_OF_WEAK, _WEAK = 3.0, 0.045  # parameters that an atom of this share of the heaviest counts as: noise looks so
_LONGEST = 0.3  # Å of one step
_PRIMITIVE: Floats = np.zeros((1, 3))
_POINTS = 3.5  # of the grid of peaks, along d_min


@dataclass(frozen=True, eq=False)
class Reflections:
    """What is measured, as models need it.

    Attributes
    ----------
    cell : (6,)
    hkl : (n, 3), without 000
    amplitude : (n,)
    s2 : (n,)
        (sin θ/λ)² in Å⁻².
    sigma : (n,)
        Standard uncertainties; 0 without.
    weight : (n,)
        Of a squared error of an amplitude: weak far reflections count too.
    noise : float
        Weighted mean square error that σ gives, over the weighted mean square; 0 without σ.
    factors : (HEAVIEST + 1, n)
        Form factors of the elements; row 0 is 0.
    filter : (n,)
        What values are multiplied by, for peaks of the height of their atoms' electrons by least squares.
    b : float
        Å² that all atoms have in the mean (Wilson 1942), were they silicon.
    shape : (nx, ny, nz)
        Of the grid that peaks are looked for on.
    half, sides : (nx, ny, nz') and (nx, ny, nz)
        Shapes of the half grids and of the grid of the problem.
    """

    cell: Floats
    hkl: Ints
    amplitude: Floats
    sigma: Floats
    s2: Floats
    weight: Floats
    noise: float
    factors: Floats
    filter: Floats
    b: float
    shape: Shape
    half: tuple[int, ...]
    sides: Ints

    @classmethod
    def of(cls, problem: PhaseProblem) -> Reflections:
        sides = np.array(problem.shape)
        index = np.argwhere(problem.measured.cpu().numpy())
        hkl = np.where(2 * index > sides, index - sides, index)
        one = _is_first_of_pair(hkl)
        hkl, index = hkl[one], index[one]
        amplitude = problem.amplitude.cpu().numpy()[tuple(index.T)].astype(np.float64)
        matrix = orthogonalization_matrix(problem.cell)
        s2 = ((hkl @ np.linalg.inv(matrix)) ** 2).sum(1) / 4
        silicon = form_factors([(14, 0)], s2, xp=np, dtype=np.float64)[0] / 14
        b = overall_b(amplitude / silicon, s2)
        falling = silicon * np.exp(-b * s2)
        weight = 1 / falling
        table = form_factors([(z, 0) for z in range(1, HEAVIEST + 1)], s2, xp=np, dtype=np.float64)
        given = np.zeros(problem.amplitude.shape) if problem.sigma is None else problem.sigma.cpu().numpy()
        sigma = given[tuple(index.T)].astype(np.float64)
        least = zip(problem.cell[:3] * _POINTS / problem.d_min, 2 * abs(hkl).max(0) + 2, strict=True)
        nx, ny, nz = (fft.next_fast_len(int(np.ceil(max(*pair, 6))), real=True) for pair in least)
        return cls(
            cell=problem.cell, hkl=hkl, amplitude=amplitude, sigma=sigma, s2=s2, weight=weight,
            noise=float(weight @ sigma**2) / float(weight @ amplitude**2),
            factors=np.concatenate([np.zeros((1, len(s2))), table]),
            filter=weight * falling / (2 * float(weight @ falling**2)), b=b, shape=(nx, ny, nz),
            half=tuple(problem.amplitude.shape), sides=sides,
        )  # fmt: skip

    @cached_property
    def matrix(self) -> Floats:
        """(3, 3) from fractions to Å."""
        return orthogonalization_matrix(self.cell)

    def values(self, half: Tensor) -> Complexes:
        """(n,) of a half grid."""
        found: Complexes = half.cpu().numpy()[tuple((self.hkl % self.sides).T)].astype(np.complex128)
        return found

    def on_half_grid(self, values: Complexes) -> Complexes:
        """(nx, ny, nz') with (n,) values and their mates; 1 elsewhere."""
        half = np.ones(self.half, np.complex128)
        flat = self.hkl[:, 2] == 0
        half[tuple((self.hkl % self.sides).T)] = values
        half[tuple((-self.hkl[flat] % self.sides).T)] = values[flat].conj()
        return half

    def mean(self, values: Complexes, group: Group) -> Complexes:
        """(n,) means over a group: of exp(2πi h·t) F(hR), over the operations that take h to what is measured."""
        known = np.zeros(self.half)
        known[tuple((self.hkl % self.sides).T)] = 1
        flat = self.hkl[:, 2] == 0
        known[tuple((-self.hkl[flat] % self.sides).T)] = 1
        half = self.on_half_grid(values)
        total, number = np.zeros(len(values), np.complex128), np.zeros(len(values))
        for rotation, t in zip(group.rotations, group.translations, strict=True):
            image = self.hkl @ rotation
            mate = image[:, 2] < 0
            image = np.where(mate[:, None], -image, image)
            # an image beyond the grid is not measured
            fits = (2 * abs(image) < self.sides).all(1)
            place = tuple(np.where(fits[:, None], image % self.sides, 0).T)
            share = fits * known[place]
            f = half[place]
            total += share * np.exp(2j * np.pi * (self.hkl @ t)) * np.where(mate, f.conj(), f)
            number += share
        mean: Complexes = total / np.maximum(number, 1)
        return mean

    def peaks(self, values: Complexes, most: int) -> tuple[Floats, Floats]:
        """(k, 3) fractional positions of the highest maxima of a map, and heights in its electrons."""
        half = np.zeros(half_shape(self.shape), np.complex128)
        v = (self.filter * values).conj()
        flat = self.hkl[:, 2] == 0
        half[tuple((self.hkl % self.shape).T)] = v
        half[tuple((-self.hkl[flat] % self.shape).T)] = v[flat].conj()
        rho = fft.irfftn(half, s=self.shape, norm="forward")
        found = find_peaks(rho, self.cell, most, min_distance=0)
        return found.positions[found.heights > 0], found.heights[found.heights > 0]


class Frame:
    """The reflections that a group with the centrings (c, 3) of its lattice does not relate, and where it takes atoms.

    Attributes
    ----------
    rotations, translations : (g, 3, 3) int64, (g, 3)
        All operations modulo the lattice of the cell, centrings among them.
    group : the same
    amplitude, weight, s2 : (m,)
    factors : (HEAVIEST + 1, m)
    """

    def __init__(self, reflections: Reflections, group: Group, centrings: Floats = _PRIMITIVE) -> None:
        rotations = np.concatenate([group.rotations] * len(centrings))
        translations = np.concatenate([group.translations + centring for centring in centrings])
        self.group = Group(rotations, translations)
        self.reflections, self.rotations, self.translations = reflections, rotations, translations
        classes = Classes(reflections.hkl, rotations)
        self._classes = classes
        number = np.bincount(classes.own)
        self.amplitude: Floats = np.bincount(classes.own, reflections.amplitude) / number
        self.weight: Floats = reflections.weight[classes.first] * number
        self.norm = float(self.weight @ self.amplitude**2)
        self.s2, self.factors = reflections.s2[classes.first], reflections.factors[:, classes.first]
        # h·(Rx + t) = (hR)·x + h·t
        self.image_indices: Floats = np.einsum("mi,gij->mgj", classes.hkl, rotations).astype(np.float64)
        self._shifts = classes.hkl @ translations.T
        # F(h) = F(hR) exp(2πi h·t)
        turn = (reflections.hkl * translations[classes.operation]).sum(1)
        self._to_all: Complexes = np.exp(2j * np.pi * turn)
        matrix = reflections.matrix
        self._inverse = np.linalg.inv(matrix)
        self._cartesian = matrix @ rotations @ self._inverse

    def __len__(self) -> int:
        return len(self.amplitude)

    def images(self, position: Floats) -> Floats:
        """(g, 3)"""
        found: Floats = position @ self.rotations.transpose(0, 2, 1) + self.translations
        return found

    def length(self, difference: Floats) -> Floats:
        """Å of fractional differences (…, 3), each coordinate taken to within half an edge.

        That is the nearest image where it is nearer than half the distance of the lattice planes, which is what counts.
        """
        found: Floats = np.linalg.norm((difference - np.rint(difference)) @ self.reflections.matrix.T, axis=-1)
        return found

    def settled(self, position: Floats) -> Site | None:
        """A position moved to the special position it is near, if any; None where an image is too near to be another
        atom."""
        for _ in range(4):
            off = self.images(position) - position
            off -= np.rint(off)
            near = self.length(off) < MERGED
            position = position + off[near].mean(0)
        distance = self.length(self.images(position) - position)
        keeping = distance < IN_PLACE
        if (~keeping & (distance < NEAREST)).any():
            return None
        return position, int(keeping.sum()), self.freedom(keeping)

    def freedom(self, keeping: NDArray[np.bool_]) -> Floats:
        """(3, 3) columns along what an atom may move that these operations keep in its place, fractions for 1 Å."""
        u, s, _ = np.linalg.svd(self._cartesian[keeping].mean(0))
        free: Floats = self._inverse @ (u * (s > 0.5))
        return free

    def waves(self, positions: Floats) -> NDArray[np.complex64]:
        """(m, g, o) exp(2πi h·(Rx + t))."""
        m, g = self._shifts.shape
        turns = (self.image_indices.reshape(-1, 3) @ positions.T).reshape(m, g, -1) + self._shifts[..., None]
        angle = (2 * np.pi * (turns - np.rint(turns))).astype(np.float32)
        found = np.empty(angle.shape, np.complex64)
        np.cos(angle, out=found.real)
        np.sin(angle, out=found.imag)
        return found

    def everywhere(self, f: Complexes) -> Complexes:
        """(n,) of all measured reflections from (m,)."""
        own = f[self._classes.own]
        found: Complexes = self._to_all * np.where(self._classes.mate, own.conj(), own)
        return found


@dataclass(frozen=True, eq=False)
class AtomModel:
    """Orbits of atoms in a frame.

    Attributes
    ----------
    positions : (o, 3) fractional, one atom of each orbit
    electrons : (o,)
        Up to a factor that all share where the amplitudes are on a scale of their own.
    b : (o,) Å²
    keeping : (o,)
        Operations that leave the atom in its place: its orbit has g / keeping atoms.
    free : (o, 3, 3)
        Columns along what each may move, fractions for 1 Å; those beyond its freedom are 0.
    scale : float
    known : bool
        Whether the elements are, so that the numbers of electrons are no unknowns.
    shared_b : bool
        Whether all atoms have one b.
    """

    frame: Frame
    positions: Floats
    electrons: Floats
    b: Floats
    keeping: Floats
    free: Floats
    scale: float = 1.0
    known: bool = False
    shared_b: bool = False

    @classmethod
    def without_atoms(cls, frame: Frame) -> AtomModel:
        return cls(frame, np.empty((0, 3)), np.empty(0), np.empty(0), np.empty(0), np.empty((0, 3, 3)))

    def __len__(self) -> int:
        return len(self.electrons)

    @property
    def atoms(self) -> float:
        """In the cell."""
        return float(np.sum(len(self.frame.rotations) / self.keeping))

    def distances(self) -> Floats:
        """(o, g, o) Å from the images of each atom to each atom; of an atom to itself, to that in another cell."""
        cell = self.frame.reflections.cell
        images = np.einsum("gij,oj->ogi", self.frame.rotations, self.positions) + self.frame.translations
        found = shortest(images[:, :, None] - self.positions, cell)
        found[(found < IN_PLACE) & np.eye(len(self), dtype=bool)[:, None]] = shortest_translation(cell)
        return found

    @property
    def parameters(self) -> float:
        """Number of an orbit's parameters as they count, with scale and mean b."""
        weak = 0 if self.known else (self.electrons < _WEAK * self.electrons.max(initial=0)).sum()
        each = (not self.known) + _COST_OF_B * (not self.shared_b)
        return float(2 + each * len(self) + self._movable.sum() + _COST_OF_WEAK * weak)

    def share(self, independent: int | None = None) -> float:
        """Parameters over amplitudes: those that the group does not relate, or so many."""
        return self.parameters / (independent or len(self.frame))

    def only(self, which: Ints) -> AtomModel:
        return replace(
            self, positions=self.positions[which], electrons=self.electrons[which], b=self.b[which],
            keeping=self.keeping[which], free=self.free[which],
        )  # fmt: skip

    def contributions(self) -> Complexes:
        """(m, o) of each orbit to the structure factors."""
        found: Complexes = self._waves.sum(1) * self._falling * self._factors[0]
        return found

    @cached_property
    def _waves(self) -> NDArray[np.complex64]:
        return self.frame.waves(self.positions)

    def everywhere(self) -> Complexes:
        """(n,) structure factors of all measured reflections."""
        return self.frame.everywhere(self.contributions().sum(1))

    @property
    def misfit(self) -> float:
        """Σ w (|Fo| - |Fc|)² / Σ w |Fo|², beyond what the noise gives."""
        return max(0.0, self._cost)

    def criterion(self, independent: int | None = None) -> float:
        """What a better model has less of: the Bayesian information criterion (Schwarz 1978), an observation.

        Observations are the amplitudes that the group does not relate, or so many: amplitudes that are equal by the
        crystal's symmetry are one observation, whether a model has that symmetry or not.
        """
        if not len(self):
            return float("inf")
        m = independent or len(self.frame)
        return float(np.log(self.misfit + self._error) + self.parameters * np.log(max(m, 8)) / m)

    @property
    def _error(self) -> float:
        return EXACT + self.frame.reflections.noise

    def refined(self, cycles: int, enough: float = 1e-2) -> AtomModel:
        """After at most so many steps of Levenberg and Marquardt; fewer where one gains less than `enough`."""
        now, damping, tries = self, 1e-3, cycles + 4
        cost = now._penalised()
        for _ in range(cycles if len(self) else 0):
            matrix, right = now._equations()
            diagonal = matrix.diagonal()
            gained = 0.0
            while tries and not gained > 0:
                tries -= 1
                damped = matrix + np.diag(damping * diagonal + 1e-9 * diagonal.max())
                then = now._moved(np.linalg.solve(damped, right).astype(np.float64))
                gained = cost - then._penalised()
                damping = max(damping / 10, 1e-7) if gained > 0 else damping * 10
            if not gained > 0:
                break
            now, cost = then, cost - gained
            if gained < enough * cost:
                break
        return now

    def extended(self, values: Complexes, most: int, least: float) -> AtomModel:
        """With orbits of the strongest peaks of the map of `values` (n,): at most so many, none weaker than `least`
        of the strongest, none near an atom."""
        frame = self.frame
        positions, heights = frame.reflections.peaks(values, int(1.5 * most * len(frame.rotations)) + 20)
        for atom in self.positions:
            positions, heights = _away(frame, atom, positions, heights)
        new: list[tuple[Site, float]] = []
        strongest = heights[:1].sum()
        while len(new) < most and len(heights) and heights[0] >= least * strongest:
            place, height = positions[0], heights[0]
            positions, heights = positions[1:], heights[1:]
            settled = frame.settled(place)
            if settled is not None and not self._occupied(settled[0], [s for s, _ in new]):
                new.append((settled, float(height)))
                place = settled[0]
            positions, heights = _away(frame, place, positions, heights)
        if not new:
            return self
        scale = self.scale if len(self) else max(height for _, height in new) / _GUESS
        b = float(self.b.mean()) if len(self) else max(frame.reflections.b, 0.3)
        return replace(
            self,
            positions=np.vstack([self.positions, [s[0] for s, _ in new]]),
            electrons=np.append(self.electrons, [min(height / scale, HEAVIEST - 1) for _, height in new]),
            b=np.append(self.b, np.full(len(new), b)),
            keeping=np.append(self.keeping, [s[1] for s, _ in new]),
            free=np.concatenate([self.free, [s[2] for s, _ in new]]),
            scale=scale,
        )

    def _occupied(self, position: Floats, others: list[Site]) -> bool:
        atoms = [*self.positions, *(s[0] for s in others)]
        return any(self.frame.length(self.frame.images(atom) - position).min() < NEAREST for atom in atoms)

    @cached_property
    def _movable(self) -> NDArray[np.bool_]:
        """(o, 3) which columns of `free` are a freedom."""
        found: NDArray[np.bool_] = np.any(self.free, axis=1)
        return found

    @cached_property
    def _falling(self) -> Floats:
        """(m, o)"""
        falling: Floats = self.scale / self.keeping * np.exp(np.multiply.outer(-self.frame.s2, self.b))
        return falling

    @cached_property
    def _factors(self) -> tuple[Floats, Floats]:
        """(m, o) form factors between those of the elements, and their change with an electron."""
        z = np.clip(np.floor(self.electrons).astype(int), 0, HEAVIEST - 1)
        low = self.frame.factors[z].T
        slope = self.frame.factors[z + 1].T - low
        return low + slope * (self.electrons - z), slope

    @cached_property
    def _cost(self) -> float:
        frame = self.frame
        rest = frame.amplitude - abs(self.contributions().sum(1)) if len(self) else frame.amplitude
        return float(frame.weight @ rest**2) / frame.norm - frame.reflections.noise

    @property
    def _pull(self) -> float:
        return EXACT / _SPREAD_OF_B**2 / len(self.frame)

    def _penalised(self) -> float:
        return self._cost + self._pull * float(((self.b - self.b.mean()) ** 2).sum()) if len(self) else 1.0

    def _equations(self) -> tuple[Floats, Floats]:
        """(p, p) and (p,): the normal equations for electrons, moves in Å, b, and the logarithm of the scale."""
        frame, o = self.frame, len(self)
        waves, falling = self._waves, self._falling
        f, slope = self._factors
        shape = waves.sum(1) * falling
        each = shape * f
        fc = each.sum(1)
        along = frame.image_indices.transpose(0, 2, 1).astype(np.float32) @ waves
        turned = along * (2j * np.pi * (falling * f)[:, None])
        moves = np.einsum("mio,oij->moj", turned, self.free)[:, self._movable]
        falls = -frame.s2[:, None] * (fc[:, None] if self.shared_b else each)
        electrons = [] if self.known else [shape * slope]
        derivatives = np.concatenate([*electrons, moves, falls, fc[:, None]], 1)
        size = abs(fc)
        root = np.sqrt(frame.weight / frame.norm)
        # an amplitude changes with what is along its phase
        jacobian = root[:, None] * (derivatives * (fc.conj() / np.maximum(size, 1e-12))[:, None]).real
        matrix = jacobian.T @ jacobian
        right = jacobian.T @ (root * (frame.amplitude - size))
        if self.shared_b:
            return matrix, right
        b = slice(-1 - o, -1)
        matrix[b, b] += self._pull * (np.eye(o) - 1 / o)
        right[b] -= self._pull * (self.b - self.b.mean())
        return matrix, right

    def _moved(self, step: Floats) -> AtomModel:
        o, at = len(self), 0 if self.known else len(self)
        own = np.zeros((o, 3))
        own[self._movable] = step[at : at + (moving := int(self._movable.sum()))]
        shift = (self.free @ own[..., None])[..., 0]
        length = np.linalg.norm(shift @ self.frame.reflections.matrix.T, axis=1)
        positions = self.positions + shift * np.minimum(1.0, _LONGEST / np.maximum(length, 1e-12))[:, None]
        at += moving
        return replace(
            self, positions=positions,
            electrons=self.electrons
            if self.known
            else np.clip(self.electrons + step[:o], 0.05 * self.electrons, HEAVIEST - 1),
            b=np.clip(self.b + np.clip(step[at:-1], -2, 2), -1, 16),
            scale=self.scale * float(np.exp(np.clip(step[-1], -0.5, 0.5))),
        )  # fmt: skip


def _is_first_of_pair(hkl: Ints) -> NDArray[np.bool_]:
    h, k, l = hkl.T
    first: NDArray[np.bool_] = (l > 0) | ((l == 0) & ((k > 0) | ((k == 0) & (h > 0))))
    return first


class Classes:
    """Which reflections the rotations and Friedel's law relate.

    hkl : (m, 3) one of each class
    first : (m,) number of a reflection of the class
    own : (n,) class of each reflection
    operation, mate : (n,) by which one, and with Friedel's law or not, it becomes that of the class
    """

    def __init__(self, hkl: Ints, rotations: Ints) -> None:
        reach = 6 * int(abs(hkl).max()) + 1  # an image in skew axes may reach further
        codes, mates, images = [], [], []
        unique = {rotation.tobytes(): i for i, rotation in reversed(list(enumerate(rotations)))}
        numbers = sorted(unique.values())
        for i in numbers:
            image = hkl @ rotations[i]
            mate = ~_is_first_of_pair(image)
            image = np.where(mate[:, None], -image, image)
            h, k, l = (image + reach).T
            codes.append((h * 2 * reach + k) * 2 * reach + l)
            mates.append(mate)
            images.append(image)
        least = np.argmin(codes, 0)
        here = np.arange(len(hkl))
        _, self.first, self.own = np.unique(np.array(codes)[least, here], return_index=True, return_inverse=True)
        self.hkl: Ints = np.array(images)[least, here][self.first]
        self.operation: Ints = np.array(numbers)[least]
        self.mate: NDArray[np.bool_] = np.array(mates)[least, here]


def _away(frame: Frame, atom: Floats, positions: Floats, heights: Floats) -> tuple[Floats, Floats]:
    """The peaks that are not near an image of an atom."""
    if not len(positions):
        return positions, heights
    free = frame.length(positions[:, None] - frame.images(atom)).min(1) >= NEAREST
    return positions[free], heights[free]
