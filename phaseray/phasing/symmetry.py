"""The symmetry of a map that was phased without any: found, and put to use.

Phases come out in P1 with the origin anywhere. A symmetry x → Rx + t of the true map shows in three steps. R is a
symmetry of the amplitudes: |F(hR)| = |F(h)|. The map correlates with its image: F(h) = exp(2πi h·t) F(hR), so the
sum C(t) = Σ F(h) F*(hR) exp(-2πi h·t) / Σ|F|², an FFT, has a peak near 1 at the right t (the translation function of
Palatinus & van der Lee 2008, J. Appl. Cryst. 41, 975). And the operations make a group. The mean of a map over its
group has smaller errors; reflections that the group restricts get exact phases.

Of each R and -R that the amplitudes have, the crystal has at least one: the amplitudes cannot show which, by
Friedel's law. A map where neither shows is wrong, whatever else speaks for it.

Legend: n measured reflections of the half grid, k rotations of the amplitudes, g operations of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseray.diffraction.grid import Shape
from phaseray.phasing.problem import AXES, PhaseProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OBLIQUITY = 0.5
"""Degrees that a lattice may be off a symmetry: as measured cells are."""
UNEQUAL = 0.1
"""R between the amplitudes of a map and its image up to which they count as equal."""
CENTRED = 0.98
"""Of the origin peak of the Patterson function, that a lattice translation has."""
_INCONSISTENT = 0.08  # of a cell edge, by which the products of operations may miss the group
_REFINEMENTS = 4
_PLACING = 12  # operations that a group is placed by


@dataclass(frozen=True, eq=False)
class Group:
    """A space group about the origin that a map happens to have, modulo the lattice.

    rotations : (g, 3, 3) int64, on fractional coordinates, the identity first
    translations : (g, 3), fractions of the cell
    generators : the operations found, in the order of the search; the others are products of them
    correlations : of the map with its image under each generator: how sure this is
    """

    rotations: Ints
    translations: Floats
    generators: tuple[tuple[Ints, Floats], ...] = ()
    correlations: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.rotations)


class _Placing(NamedTuple):
    """A group about a point (3,), and its mean correlation there."""

    group: Group
    correlation: float
    point: Floats


class AmplitudeSymmetry:
    """The rotations that leave the amplitudes of a problem as they are, and what they say about maps.

    Attributes
    ----------
    rotations : (k, 3, 3) int64
        R on fractional coordinates, with -R of each, as amplitudes have both.
    centrings : (c, 3)
        Translations of the lattice, in twelfths of the cell, the null one among them.
    """

    def __init__(self, problem: PhaseProblem, unequal: float = UNEQUAL, centred: float = CENTRED) -> None:
        self.problem = problem
        n, measured = np.array(problem.shape), problem.measured.cpu().numpy()
        index = np.argwhere(measured)
        self._hkl = np.where(2 * index > n, index - n, index)
        self._flat = np.flatnonzero(measured)
        amplitude = problem.amplitude.cpu().numpy().astype(np.float64)
        self._weight = problem.weight.cpu().numpy()[tuple(index.T)].astype(np.float64)
        own = amplitude[tuple(index.T)]
        self._norm = float(self._weight @ own**2)
        kept, places, mates, known = [], [], [], []
        for rotation in lattice_rotations(problem.cell):
            place, mate, both = _images(self._hkl @ rotation, measured)
            if both.mean() < 0.5:
                continue
            w, image = self._weight * both, amplitude.ravel()[place]
            if w @ abs(image - own) <= unequal * (w @ (image + own)) / 2:
                kept.append(rotation)
                places.append(place)
                mates.append(mate)
                known.append(both)
        self.rotations: Ints = np.array(kept)
        self._place, self._mate, self._known = np.array(places), np.array(mates), np.array(known)
        self._number = {r.tobytes(): i for i, r in enumerate(self.rotations)}
        self._opposite = np.array([self._number[(-r).tobytes()] for r in self.rotations])
        # the smallest grid that holds all indices: peaks are looked for on it, and their tops found by steps
        reach = abs(self._hkl).max(0)
        self._shape: Shape = tuple(int(2 * r + 2) for r in reach)  # type: ignore[assignment]
        twelfths = np.indices((12, 12, 12)).reshape(3, -1).T / 12
        patterson = np.cos(2 * np.pi * (twelfths @ self._hkl.T)) @ (self._weight * own**2) / self._norm
        self.centrings: Floats = twelfths[patterson >= centred]

    def correlations(self, f: Tensor) -> Floats:
        """(S, k) of the maps of half grids f (S, nx, ny, nz') with their images under each R, at the best t."""
        values = f.detach().cpu().numpy().reshape(len(f), -1)[:, self._flat]
        every = list(range(len(self.rotations)))
        found = [self._refined(v, every, self._peaks(v, every, self._shape)[1])[0] for v in values]
        return np.array(found)

    def shown(self, f: Tensor) -> Floats:
        """(S,) mean, over the pairs R, -R but that of the identity, of the larger correlation: 1 for the true map.

        1 as well where there is no other pair: amplitudes without symmetry say nothing.
        """
        table = self.correlations(f)
        pair = np.maximum(table, table[:, self._opposite])[:, abs(np.trace(self.rotations, axis1=1, axis2=2)) < 3]
        mean: Floats = pair.mean(1) if pair.shape[1] else np.ones(len(pair))
        return mean

    def groups(self, f: Tensor, least: tuple[float, ...]) -> list[Group]:
        """The groups that the map of a half grid f (nx, ny, nz') has, from the surest operation on.

        An operation is added to the group where its correlation, with the map that the group so far has cleared,
        is at least so high; one group for each value of `least`, without repeats or that of the identity alone.
        """
        values = f.detach().cpu().numpy().ravel()[self._flat]
        chain = [Group(np.eye(3, dtype=np.int64)[None], np.zeros((1, 3)))]
        present, refused = values, set[int]()
        fine: Shape = tuple(2 * n for n in self._shape)  # type: ignore[assignment]
        while True:
            have = {self._number[r.tobytes()] for r in chain[-1].rotations}
            rest = [i for i in range(len(self.rotations)) if i not in have and i not in refused]
            if not rest:
                break
            # of peaks almost as high only a fine grid finds the higher one
            c, t = self._refined(present, rest, self._peaks(present, rest, fine)[1])
            best = int(c.argmax())
            if c[best] < min(least):
                break
            larger = self._with(chain[-1], self.rotations[rest[best]], t[best], float(c[best]))
            if larger is None:
                refused.add(rest[best])
                continue
            chain.append(larger)
            present = self._mean(values, larger)
        found: list[Group] = []
        for limit in least:
            upto = [g for g in chain[1:] if min(g.correlations) >= limit]
            if upto and len(upto[-1]) not in [len(g) for g in found]:
                found.append(upto[-1])
        return found

    def placed(self, f: Tensor, group: Group) -> tuple[Group, float]:
        """A group whose origin is not known, about the origin at which the map of a half grid f (nx, ny, nz') fits it
        best, and its mean correlation with its images there.

        An operation x → Rx + t about a point p is x → Rx + t + (1 - R)p.
        """
        if len(group) == 1:
            return group, 1.0
        best = max(self._placings(f[None], self._hands(group))[0], key=lambda each: each.correlation)
        return best.group, best.correlation

    def origin(self, f: Tensor, group: Group) -> tuple[Floats, bool, float]:
        """Where the map of a half grid f (nx, ny, nz') has the origin of a group: (3,) fractional; whether it is the
        inverted map that has the group about there (P4₁ for P4₃); and the mean correlation of `placed`."""
        if len(group) == 1:
            return np.zeros(3), False, 1.0
        placings = self._placings(f[None], self._hands(group))[0]
        best = max(range(len(placings)), key=lambda i: placings[i].correlation)
        return placings[best].point, best == 1, placings[best].correlation

    def fits(self, f: Tensor, groups: Sequence[Group]) -> Floats:
        """(S,) the correlation of `placed` of each map of half grids f (S, nx, ny, nz'), with the group it fits best.

        1 where there are none, or one is that of the identity alone, as it fits anything.
        """
        if not groups or any(len(group) == 1 for group in groups):
            return np.ones(len(f))
        hands = [hand for group in groups for hand in self._hands(group)]
        return np.array([max(each.correlation for each in of_map) for of_map in self._placings(f, hands)])

    def _hands(self, group: Group) -> list[Group]:
        centric = (-np.eye(3) == group.rotations).all((1, 2)).any()
        return [group] if centric else [group, Group(group.rotations, -group.translations)]

    def _placings(self, f: Tensor, hands: Sequence[Group]) -> list[list[_Placing]]:
        """Of each map of half grids f (S, nx, ny, nz') each group about its best origin, and its correlation there.

        None of the groups is that of the identity alone.
        """
        shape: Shape = tuple(2 * n for n in self._shape)  # type: ignore[assignment]
        fine, limit = np.array(shape), 0.5 / np.array(self._shape)
        points = np.indices(shape).reshape(3, -1).T / fine
        prepared = []
        for hand in hands:
            chosen = [i for i, r in enumerate(hand.rotations) if (r != np.eye(3)).any()][:_PLACING]
            numbers = [self._number[hand.rotations[i].tobytes()] for i in chosen]
            move, t = np.eye(3) - hand.rotations[chosen], hand.translations[chosen]
            places = [
                np.rint((points @ m.T + shift) * fine).astype(np.int64) % fine for m, shift in zip(move, t, strict=True)
            ]
            # large cells have many points
            indices = [np.ravel_multi_index(tuple(place.T), shape).astype(np.int32) for place in places]
            prepared.append((hand, numbers, move, t, indices))
        used = sorted({number for _, numbers, *_ in prepared for number in numbers})
        two_pi_h = 2 * np.pi * self._hkl
        found = []
        for values in f.detach().cpu().numpy().reshape(len(f), -1)[:, self._flat]:
            of_map: list[_Placing] = []
            product = values * self._rotated(values, used).conj()
            sums = self._sums(product, shape).reshape(len(used), -1)
            for hand, numbers, move, t, indices in prepared:
                rows = [used.index(number) for number in numbers]
                p = points[sum(sums[row][index] for row, index in zip(rows, indices, strict=True)).argmax()]
                g = self._weight * product[rows]
                for _ in range(_REFINEMENTS):
                    q = g * np.exp(-1j * ((move @ p + t) @ two_pi_h.T))
                    slope, curvature = np.zeros(3), np.zeros((3, 3))
                    for each, m in zip(q, move, strict=True):
                        along = two_pi_h @ m
                        slope += each.imag @ along
                        curvature += (along * each.real[:, None]).T @ along
                    p = p + np.clip(np.linalg.pinv(curvature, rcond=1e-6, hermitian=True) @ slope, -limit, limit)
                c = (g * np.exp(-1j * ((move @ p + t) @ two_pi_h.T))).real.sum(1) / self._norm
                about = hand.translations + (np.eye(3) - hand.rotations) @ p
                of_map.append(_Placing(Group(hand.rotations, about), float(c.mean()), p))
            found.append(of_map)
        return found

    def projection(self, group: Group) -> Projection:
        """What takes half grids to their means over the group."""
        numbers = [self._number[r.tobytes()] for r in group.rotations]
        phase = np.exp(2j * np.pi * (group.translations @ self._hkl.T)) * self._known[numbers]
        phase /= self._known[numbers].sum(0)
        device = self.problem.device
        return Projection(
            own=torch.as_tensor(self._flat, device=device),
            images=torch.as_tensor(self._place[numbers], device=device),
            mates=torch.as_tensor(self._mate[numbers], device=device),
            factors=torch.as_tensor(phase.astype(np.complex64), device=device),
        )

    def _rotated(self, values: NDArray[np.complex128], numbers: list[int]) -> NDArray[np.complex128]:
        """(len(numbers), n) F(hR), 0 where not measured."""
        half = np.zeros(self.problem.measured.numel(), complex)
        half[self._flat] = values
        image = half[self._place[numbers]]
        rotated: NDArray[np.complex128] = np.where(self._mate[numbers], image.conj(), image) * self._known[numbers]
        return rotated

    def _sums(self, values: NDArray[np.complex128], shape: Shape) -> Floats:
        """Σ v exp(-2πi h·t) over the sphere for all t of a grid, (m, *shape)."""
        sides = (*shape[:2], shape[2] // 2 + 1)
        place = np.ravel_multi_index(tuple((self._hkl % np.array(shape)).T), sides)
        half = torch.zeros((len(values), int(np.prod(sides))), dtype=torch.complex64)
        half[:, place] = torch.as_tensor(values.conj(), dtype=torch.complex64)
        maps: Floats = torch.fft.irfftn(half.reshape(-1, *sides), s=shape, dim=AXES, norm="forward").numpy()
        return maps

    def _peaks(self, values: NDArray[np.complex128], numbers: list[int], shape: Shape) -> tuple[Floats, Floats]:
        """(m,) highest correlations with the images on a grid, and (m, 3) the t where they are."""
        sums = self._sums(values * self._rotated(values, numbers).conj(), shape).reshape(len(numbers), -1)
        place = sums.argmax(1)
        t = np.stack(np.unravel_index(place, shape), -1) / np.array(shape)
        return sums[np.arange(len(place)), place] / self._norm, t

    def _refined(self, values: NDArray[np.complex128], numbers: list[int], t: Floats) -> tuple[Floats, Floats]:
        """Correlations at the tops of the peaks near t (m, 3), and where they are: Newton's method on the sums."""
        g = self._weight * values * self._rotated(values, numbers).conj()
        two_pi_h = 2 * np.pi * self._hkl
        squares = (two_pi_h[:, :, None] * two_pi_h[:, None, :]).reshape(-1, 9)
        limit = 0.5 / np.array(self._shape)
        for _ in range(_REFINEMENTS):
            q = g * np.exp(-1j * (t @ two_pi_h.T))
            curvature = (q.real @ squares).reshape(-1, 3, 3)
            # a crystal may be free along an axis: there the sum is level and the step 0
            step = np.linalg.pinv(curvature, rcond=1e-6, hermitian=True) @ (q.imag @ two_pi_h)[..., None]
            t = t + np.clip(step[..., 0], -limit, limit)
        c: Floats = (g * np.exp(-1j * (t @ two_pi_h.T))).real.sum(1) / self._norm
        return c, t

    def _mean(self, values: NDArray[np.complex128], group: Group) -> NDArray[np.complex128]:
        numbers = [self._number[r.tobytes()] for r in group.rotations]
        factors = np.exp(2j * np.pi * (group.translations @ self._hkl.T))
        mean: NDArray[np.complex128] = (factors * self._rotated(values, numbers)).sum(0) / self._known[numbers].sum(0)
        return mean

    def _with(self, group: Group, rotation: Ints, t: Floats, correlation: float) -> Group | None:
        """The group that one more operation makes; None where the products do not close."""
        generators = [*group.generators, (rotation, t)]
        table = {r.tobytes(): (r, s) for r, s in zip(group.rotations, group.translations, strict=True)}
        todo = list(table.values())
        while todo:
            r1, t1 = todo.pop()
            for r2, t2 in generators:
                product = r1 @ r2
                if product.tobytes() not in table:
                    table[product.tobytes()] = (product, t1 + r1 @ t2)
                    todo.append(table[product.tobytes()])
        if any(key not in self._number for key in table):
            return None
        rotations = np.array([r for r, _ in table.values()])
        translations = np.array([s for _, s in table.values()])
        numbers = [list(table).index(r.tobytes()) for r, _ in generators]
        exact = closed(rotations, translations, numbers, self.centrings)
        if exact is None:
            return None
        own = tuple((r, exact[i]) for (r, _), i in zip(generators, numbers, strict=True))
        return Group(rotations, exact, own, (*group.correlations, correlation))


@dataclass(frozen=True, eq=False)
class Projection:
    """Means of half grids over a group: F(h) becomes the mean of exp(2πi h·t) F(hR) over its operations.

    Measured reflections only; all others become 0.
    """

    own: Tensor
    images: Tensor
    mates: Tensor
    factors: Tensor

    def __call__(self, f: Tensor) -> Tensor:
        """(…, nx, ny, nz') → the same."""
        image = f.flatten(-3)[..., self.images]
        mean = (torch.where(self.mates, image.conj(), image) * self.factors).sum(-2)
        out = torch.zeros_like(f).flatten(-3)
        out[..., self.own] = mean
        return out.reshape(f.shape)


def lattice_rotations(cell: NDArray[np.float64]) -> list[Ints]:
    """The (3, 3) integer matrices that take a lattice to itself within OBLIQUITY, proper and improper."""
    ops = gemmi.find_lattice_symmetry(gemmi.UnitCell(*cell), "P", OBLIQUITY).sym_ops
    proper = [np.array(op.rot) // gemmi.Op.DEN for op in ops]
    unique = {r.tobytes(): r.astype(np.int64) for m in proper for r in (m, -m)}
    return sorted(unique.values(), key=lambda r: (-np.trace(r), r.tolist()))


def closed(rotations: Ints, translations: Floats, generators: list[int], centrings: Floats) -> Floats | None:
    """(g, 3) the translations nearest to these with which the operations are a group modulo the lattice.

    t(R₁R₂) = t(R₁) + R₁ t(R₂) up to a lattice vector, for all R₁ and all generators R₂ (their numbers are given): the
    vectors are those nearest to what is given, and the equations are then solved with the smallest change. None
    where what is given is further from a group than _INCONSISTENT of an edge.
    """
    g, s = len(rotations), len(generators)
    number = {r.tobytes(): i for i, r in enumerate(rotations)}
    product = np.array([[number[(r @ rotations[b]).tobytes()] for b in generators] for r in rotations])
    miss = translations[:, None] + np.einsum("aij,bj->abi", rotations, translations[generators]) - translations[product]
    off = miss[..., None, :] - centrings
    off -= np.rint(off)
    nearest = abs(off).max(-1).argmin(-1)
    residual = np.take_along_axis(off, nearest[..., None, None], 2)[..., 0, :]
    if abs(residual).max() > _INCONSISTENT:
        return None
    matrix = np.zeros((g, s, 3, g, 3))
    a, b = np.indices((g, s))
    for i in range(3):
        matrix[a, b, i, a, i] += 1
        matrix[a, b, i, product, i] -= 1
        for j in range(3):
            matrix[a, b, i, np.array(generators)[b], j] += rotations[a, i, j]
    flat = matrix.reshape(g * s * 3, g * 3)
    # normal equations: the unknowns are fewer than the equations; what they leave open is the origin
    change = np.linalg.pinv(flat.T @ flat, rcond=1e-9, hermitian=True) @ (flat.T @ residual.ravel())
    exact: Floats = translations - change.reshape(g, 3)
    return exact


def _images(hkl: Ints, measured: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.bool_], NDArray[np.bool_]]:
    """Flat places of hkl (n, 3) in the half grid, whether the Friedel mate stands there, and whether measured."""
    n = np.array(measured.shape)
    mate = hkl[:, 2] < 0
    here = np.where(mate[:, None], -hkl, hkl)
    # the grid's last side may be odd, but no measured reflection lies in a Nyquist plane
    fits = (2 * abs(here[:, :2]) < n[:2]).all(1) & (here[:, 2] < measured.shape[2])
    place = np.ravel_multi_index(
        tuple(np.where(fits[:, None], here % [n[0], n[1], measured.shape[2]], 0).T), measured.shape
    )
    return place, mate, fits & measured.ravel()[place]
