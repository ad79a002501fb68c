"""What there is to be phased: the measured amplitudes of one crystal on a grid, in P1; and what a method gives back.

Legend: S starts; nx ny nz the sides of the grid of the density, nz' = nz // 2 + 1 that of the half grid of F.

Half grids hold F with the signs of the rest of phaseray: F(h) = V/N Σ ρ exp(+2πi h·x) and ρ = (1/V) Σ F exp(-2πi h·x).
torch's irfftn has the other sign, so `density` conjugates. Methods may work in whichever hand they like; what
they return in `Starts.phases` obeys these signs. No origin is fixed: every translation of a solution is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from phaseray.crystal import Crystal
from phaseray.diffraction.grid import Shape, SpacingGrid, complete_d_min, half_shape
from phaseray.diffraction.scattering import Probe

AXES = (-3, -2, -1)
POINTS_PER_D_MIN = 2.7
LEAST_SIDE = 8
_MULTIPLE = 4
_EDGE = 1e-6  # a reflection this share beyond the sphere is on it


@dataclass(frozen=True, eq=False)
class PhaseProblem:
    """Measured amplitudes of one crystal on the half grid of an FFT, both of each Friedel pair. Make it with `of`.

    Attributes
    ----------
    cell : (6,) float64
        Å and degrees.
    volume : float
        Å³.
    shape : (nx, ny, nz)
    d_min : float
        Å.
    amplitude : (nx, ny, nz') float32
        |F| as given; 0 where nothing is measured, and at F(000).
    measured, missing : (nx, ny, nz') bool
        Reflections that are known, and those within d_min that are not. F(000) is in neither, nor is
        any Nyquist plane.
    weight : (nx, ny, nz') float32
        How many of the whole sphere a point of the half grid stands for: 2, or 1 in the plane l = 0; 0 outside d_min.
    s2 : (nx, ny, nz') float32
        (sin θ/λ)² = 1/4d² in Å⁻².
    sigma : (nx, ny, nz') float32 or None
        Standard uncertainties of |F|, 0 where nothing is measured.
    hkl : (n, 3) int64
        The indices as given, in their order.
    """

    cell: NDArray[np.float64]
    volume: float
    shape: Shape
    d_min: float
    amplitude: Tensor
    measured: Tensor
    missing: Tensor
    weight: Tensor
    s2: Tensor
    sigma: Tensor | None
    hkl: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        cell: ArrayLike,
        hkl: ArrayLike,
        amplitude: ArrayLike,
        *,
        d_min: float | None = None,
        sigma: ArrayLike | None = None,
        shape: Shape | None = None,
        points_per_d_min: float = POINTS_PER_D_MIN,
        device: str | torch.device | None = None,
    ) -> PhaseProblem:
        """From a list of reflections of the whole P1 sphere, or of half of it.

        Equivalents by the space group must have been written out (`phaseray.sources.reflections` does): what is
        not given here is unmeasured. Friedel mates and repeated measurements are averaged, with the weights
        1/σ² where σ is given. F(000) is not looked at.

        Parameters
        ----------
        cell : (6,)
            Å and degrees.
        hkl : (n, 3)
            Whole numbers.
        amplitude : (n,)
            |F| on any scale, not F².
        d_min : float, optional
            Å; reflections beyond are left out. Without: that of the reflections.
        sigma : (n,), optional
            Standard uncertainties of `amplitude`.
        shape : (nx, ny, nz), optional
            Without: `grid_shape`.

        Raises
        ------
        ValueError
            No reflection, values that are not finite or below zero, no cell, indices that the grid cannot hold.
        """
        cell, indices, values = _checked(cell, hkl, amplitude)
        deviations = None if sigma is None else _checked_sigma(sigma, len(values))
        try:
            inverse = _inverse(cell)
        except ValueError as error:
            raise ValueError(str(error).replace("Crystal.cell", "cell")) from None
        s = np.linalg.norm(indices @ inverse, axis=1)
        if d_min is None:
            d_min = float(1 / s.max()) if s.max() > 0 else 0.0
            if not d_min:
                raise ValueError("the only reflection given is 000: nothing is known about the crystal")
        elif not (np.isfinite(d_min) and d_min > 0):
            raise ValueError(f"d_min must be over 0 Å, not {d_min}")
        shape = grid_shape(cell, d_min, points_per_d_min) if shape is None else shape
        n = np.asarray(shape)
        used = (s <= (1 + _EDGE) / d_min) & (s > 0)
        if not used.any():
            raise ValueError(f"no reflection has d ≥ d_min = {d_min:g} Å; the largest d is {1 / s[s > 0].min():g} Å")
        over = (2 * abs(indices[used]) >= n).any(1)
        if over.any():
            first = tuple(indices[used][over][0].tolist())
            raise ValueError(f"a grid of {shape} points cannot hold reflection {first}: use a finer one (|h| < n/2)")
        held = _averaged(indices[used], values[used], None if deviations is None else deviations[used], shape)
        amplitude_half, measured, sigma_half = held
        s2, within = _sphere(inverse, shape, d_min)
        within |= measured
        if not (amplitude_half > 0).any():
            raise ValueError("all amplitudes are 0: there is nothing to phase")
        weight = np.where(within, 2.0, 0.0)
        weight[..., 0] /= 2
        return cls(
            cell=cell, volume=float(1 / np.linalg.det(inverse)), shape=shape, d_min=d_min,
            amplitude=_tensor(amplitude_half, device), measured=_tensor(measured, device),
            missing=_tensor(within & ~measured, device), weight=_tensor(weight, device), s2=_tensor(s2, device),
            sigma=None if sigma_half is None else _tensor(sigma_half, device), hkl=indices,
        )  # fmt: skip

    @classmethod
    def from_crystal(
        cls,
        crystal: Crystal,
        d_min: float,
        *,
        probe: Probe = Probe.XRAY,
        points_per_d_min: float = POINTS_PER_D_MIN,
        device: str | torch.device | None = None,
    ) -> PhaseProblem:
        """The perfect measurement of a known crystal: what a test or a benchmark wants.

        Every reflection with d ≥ d_min, half of the sphere, without error. Atoms whose displacement is not known
        are taken as they are: `Crystal.with_default_u_iso` first.
        """
        from phaseray.diffraction.structure_factors import structure_factors

        hkl = half_sphere(crystal.cell, d_min)
        f = structure_factors(crystal, hkl, probe=probe)
        return cls.of(crystal.cell, hkl, np.abs(f), d_min=d_min, points_per_d_min=points_per_d_min, device=device)

    @property
    def device(self) -> torch.device:
        return self.amplitude.device

    def to(self, device: str | torch.device) -> PhaseProblem:
        """The same problem, its tensors on another device."""
        names = ("amplitude", "measured", "missing", "weight", "s2", "sigma")
        moved = {name: getattr(self, name).to(device) for name in names if getattr(self, name) is not None}
        return replace(self, **moved)

    def on_grid(self, shape: Shape) -> PhaseProblem:
        """The same amplitudes on another grid, which must hold them all."""
        if shape == self.shape:
            return self
        inverse = _inverse(self.cell)
        s2, within = _sphere(inverse, shape, self.d_min)
        if int(within.sum()) < int((self.measured | self.missing).sum()):
            raise ValueError(f"a grid of {shape} points cannot hold all reflections to {self.d_min:g} Å")
        moved: dict[str, Any] = {
            name: resampled(value, self.shape, shape)
            for name in ("amplitude", "measured", "missing", "weight", "sigma")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, shape=shape, s2=_tensor(s2, self.device), **moved)

    def structure_factors(self, phases: Tensor) -> Tensor:
        """Measured |F| with these unit phases (…, nx, ny, nz'); 0 where nothing is measured."""
        return self.amplitude * phases

    def density(self, phases: Tensor) -> Tensor:
        """(…, nx, ny, nz) float32 maps of measured |F| with unit phases (…, nx, ny, nz'), e/Å³ up to scale."""
        return density_of(self.structure_factors(phases), self.shape) / self.volume

    def random_phases(self, starts: int, seed: int) -> Tensor:
        """(S, nx, ny, nz') unit phases of white noise, so with Friedel's law; the same seed gives the same ones."""
        # on the CPU whatever the device, so that the start does not depend on it
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((starts, *self.shape), generator=generator)
        return unit(half_grid_of(noise)).to(self.device)

    def phases_of_hkl(self, phases: Tensor) -> NDArray[np.float64]:
        """(n,) degrees in [0, 360) of the reflections as given, of one half grid of unit phases; NaN beyond d_min."""
        grid = phases.detach().cpu().numpy()
        index, mate = _half_index(self.hkl, self.shape)
        fits = (2 * abs(self.hkl) < np.asarray(self.shape)).all(1)
        values = np.full(len(self.hkl), np.nan, complex)
        values[fits] = grid[tuple(index[fits].T)]
        values = np.where(mate, values.conj(), values)
        known = np.zeros(len(self.hkl), bool)
        known[fits] = self.measured.cpu().numpy()[tuple(index[fits].T)]
        known |= (self.hkl == 0).all(1)
        degrees: NDArray[np.float64] = np.degrees(np.angle(values)) % 360.0 % 360.0
        degrees[(self.hkl == 0).all(1)] = 0.0
        degrees[~known] = np.nan
        return degrees


@dataclass(frozen=True, eq=False)
class Starts:
    """What a method made of several starts.

    Attributes
    ----------
    phases : (S, nx, ny, nz') complex64
        exp(iφ) with the signs of this module, on the half grid; used where amplitudes are measured.
    features : name → (S,) float array
        What the method knows about each start, besides what `scoring.features` computes of any.
    solved : (S,) bool or None
        Where the method itself holds that it has converged.
    cycles : int
        How many were run.
    seconds : float
    parent : (S,) int array or None
        Of what was made from another start (the map with its symmetry put in), that start; a start is its own
        parent, and -1 stands for what was made from none. None: all are starts.
    made_by : (method, number) of one start after the other
        Where more than one method made them: each is judged by its own standards. What a method does not know of a
        start is NaN among the features.
    """

    phases: Tensor
    features: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    solved: NDArray[np.bool_] | None = None
    cycles: int = 0
    seconds: float = 0.0
    parent: NDArray[np.int64] | None = None
    made_by: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return int(self.phases.shape[0])

    @property
    def parents(self) -> NDArray[np.int64]:
        """(S,)"""
        return np.arange(len(self)) if self.parent is None else self.parent

    def of_each_method(self) -> Iterator[tuple[str, Starts]]:
        """The starts of each of `made_by`, by themselves; what was made of another method's start is its own parent."""
        first = 0
        for method, number in self.made_by:
            own = slice(first, first + number)
            parent = self.parents[own] - first
            within = (parent >= 0) & (parent < number)
            yield (
                method,
                Starts(
                    phases=self.phases[own],
                    features={k: v[own] for k, v in self.features.items() if not np.isnan(v[own]).all()},
                    parent=np.where(within, parent, np.arange(number)),
                ),
            )
            first += number

    def only(self, which: NDArray[np.int64]) -> Starts:
        """Some of the starts of one method, each its own parent."""
        return Starts(self.phases[which], {k: v[which] for k, v in self.features.items()}, cycles=self.cycles)

    @property
    def makers(self) -> NDArray[np.str_]:
        """(S,) the method of each; "" where one method made them all."""
        parts = self.made_by or (("", len(self)),)
        return np.repeat([method for method, _ in parts], [number for _, number in parts])

    @classmethod
    def of_methods(cls, *parts: tuple[str, Starts]) -> Starts:
        """Starts of several methods, one after the other; their parents must count those of all."""
        names = {name for _, part in parts for name in part.features}
        return cls(
            phases=torch.cat([part.phases for _, part in parts]),
            features={
                name: np.concatenate(
                    [np.asarray(part.features.get(name, np.full(len(part), np.nan)), float) for _, part in parts]
                )
                for name in names
            },
            cycles=sum(part.cycles for _, part in parts),
            seconds=sum(part.seconds for _, part in parts),
            parent=np.concatenate([part.parents for _, part in parts]),
            made_by=tuple(own for method, part in parts for own in part.made_by or ((method, len(part)),)),
        )


def grid_shape(cell: ArrayLike, d_min: float, points_per_d_min: float = POINTS_PER_D_MIN) -> Shape:
    """Points at most d_min / points_per_d_min Å apart; sides multiples of 4, at least 8, no prime factor over 7."""
    sides = SpacingGrid(points_per_d_min, _MULTIPLE).shape(cell, d_min)
    a, b, c = (_friendly(max(side, LEAST_SIDE)) for side in sides)
    return (a, b, c)


def half_sphere(cell: ArrayLike, d_min: float) -> NDArray[np.int64]:
    """(n, 3) indices with d ≥ d_min, one of each Friedel pair, without 000."""
    shape = grid_shape(cell, d_min)
    inverse = _inverse(np.asarray(cell, float))
    assert complete_d_min(cell, shape, d_min) < d_min * (1 + 1e-6)
    _, within = _sphere(inverse, shape, d_min)
    hkl = np.argwhere(within)
    hkl = np.where(2 * hkl > np.asarray(shape), hkl - np.asarray(shape), hkl)
    h, k, n_l = hkl.T
    first = (n_l > 0) | ((n_l == 0) & ((k > 0) | ((k == 0) & (h > 0))))
    half: NDArray[np.int64] = hkl[first]
    return half


def resampled(half: Tensor, old: Shape, new: Shape) -> Tensor:
    """Half grids (…, nx, ny, nz') of one grid on another: what does not fit is left out, what is new is 0."""
    reach = [(min(a, b) - 1) // 2 for a, b in zip(old, new, strict=True)]
    out = half.new_zeros((*half.shape[:-3], *half_shape(new)))
    pieces = [(slice(0, r + 1), slice(-r, None) if r else slice(0, 0)) for r in reach[:2]]
    last = slice(0, reach[2] + 1)
    for x in pieces[0]:
        for y in pieces[1]:
            out[..., x, y, last] = half[..., x, y, last]
    return out


def density_of(f: Tensor, shape: Shape) -> Tensor:
    """Σ F exp(-2πi h·x) of half grids (…, nx, ny, nz')."""
    rho: Tensor = torch.fft.irfftn(torch.conj_physical(f), s=shape, dim=AXES, norm="forward")
    return rho


def half_grid_of(rho: Tensor) -> Tensor:
    """(1/N) Σ ρ exp(+2πi h·x) of maps (…, nx, ny, nz): the inverse of `density_of`."""
    return torch.conj_physical(torch.fft.rfftn(rho, dim=AXES, norm="forward"))


def unit(f: Tensor) -> Tensor:
    """f / |f|, and 1 where f is 0."""
    size = f.abs()
    return torch.where(size > 0, f / size.clamp_min(torch.finfo(size.dtype).tiny), torch.ones_like(f))


def _checked(
    cell: ArrayLike, hkl: ArrayLike, amplitude: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    lattice = np.asarray(cell, np.float64)
    if lattice.shape != (6,) or not np.isfinite(lattice).all():
        raise ValueError(f"cell must be six finite numbers (a, b, c in Å, α, β, γ in degrees), not {cell!r}")
    given = np.asarray(hkl)
    if given.ndim != 2 or given.shape[1:] != (3,):
        raise ValueError(f"hkl must have shape (n, 3), not {given.shape}")
    if not len(given):
        raise ValueError("no reflection is given")
    if not np.isfinite(given.astype(np.float64)).all() or (given != np.rint(given)).any():
        raise ValueError("hkl must be whole numbers (a modulated crystal's fractional indices cannot be phased)")
    values = np.asarray(amplitude, np.float64)
    if values.shape != (len(given),):
        raise ValueError(f"amplitude must have shape ({len(given)},), one value a reflection, not {values.shape}")
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{int(bad.sum())} amplitudes are not finite or below zero, the first that of "
            f"{tuple(given[i].tolist())} ({values[i]:g}): leave them out, or set negative intensities to 0"
        )
    return lattice, given.astype(np.int64), values


def _checked_sigma(sigma: ArrayLike, n: int) -> NDArray[np.float64]:
    deviations = np.asarray(sigma, np.float64)
    if deviations.shape != (n,) or not (np.isfinite(deviations) & (deviations > 0)).all():
        raise ValueError(f"sigma must be {n} finite numbers above 0, one a reflection; leave it out where unknown")
    return deviations


def _averaged(
    hkl: NDArray[np.int64], values: NDArray[np.float64], sigma: NDArray[np.float64] | None, shape: Shape
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64] | None]:
    """Means of equal and of opposite indices on the half grid, both of each pair; where; and their σ."""
    total, norm = np.zeros(half_shape(shape)), np.zeros(half_shape(shape))
    importance = np.ones(len(values)) if sigma is None else sigma**-2
    for sign in (1, -1):
        index = sign * hkl
        stored = index[:, 2] >= 0
        place = tuple((index[stored] % np.asarray(shape)).T)
        np.add.at(total, place, (importance * values)[stored])
        np.add.at(norm, place, importance[stored])
    measured = norm > 0
    mean = np.divide(total, norm, out=np.zeros_like(total), where=measured)
    if sigma is None:
        return mean, measured, None
    return mean, measured, np.divide(1.0, np.sqrt(norm), out=np.zeros_like(norm), where=measured)


def _half_index(hkl: NDArray[np.int64], shape: Shape) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Places in the half grid (n, 3), and whether it is the Friedel mate that stands there."""
    mate = hkl[:, 2] < 0
    index = np.where(mate[:, None], -hkl, hkl)
    return index % np.asarray(shape), mate


def _sphere(inverse: NDArray[np.float64], shape: Shape, d_min: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """1/4d² on the half grid, and where 0 < 1/d ≤ 1/d_min outside the Nyquist planes."""
    h, k = (np.fft.fftfreq(n, 1 / n) for n in shape[:2])
    H = np.stack(np.meshgrid(h, k, np.arange(shape[2] // 2 + 1), indexing="ij"), -1)
    s = np.linalg.norm(H @ inverse, axis=-1)
    nyquist = (2 * abs(H) >= np.asarray(shape)).any(-1)
    return s**2 / 4, (s <= (1 + _EDGE) / d_min) & (s > 0) & ~nyquist


def _inverse(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of indices times this are Cartesian reciprocal vectors in 1/Å; ValueError for an impossible cell."""
    return np.asarray(np.linalg.inv(Crystal(cell, np.empty(0, int), np.empty((0, 3))).orthogonalization))


def _friendly(side: int) -> int:
    while True:
        rest = side
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return side
        side += _MULTIPLE


def _tensor(values: NDArray[Any], device: str | torch.device | None) -> Tensor:
    return torch.as_tensor(values if values.dtype == bool else values.astype(np.float32), device=device)
