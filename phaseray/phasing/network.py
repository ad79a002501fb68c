"""Learned cleaning: a network repairs the map, the measured amplitudes are put back, again and again.

Maps and half grids here belong together by x = irfftn(X), torch's sign: the hand is free until the end, and a
caller who wants phases in the crystallographic sign conjugates. Nothing is assumed about origin, hand or symmetry.

Legend: B crystals or starts, D H W the sides of the grid, K = W // 2 + 1 the half of the last axis.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from phaseray.diffraction.grid import Shape, SpacingGrid
from phaseray.phasing.problem import PhaseProblem, Starts, resampled
from phaseray.phasing.problem import unit as unit_or_one
from phaseray.phasing.symmetry import Projection

__all__ = [
    "Cleaned", "Observed", "Settings", "State", "clean", "condition", "iterate", "misfit", "observed_of",
    "on_network_grid", "put_back", "random_state", "settle", "solve_starts", "superposed", "transform",
    "transform_back",
]  # fmt: skip

Network = Callable[..., Tensor]
_AXES = (-3, -2, -1)
_TINY = 1e-12
_NO_VECTOR = 0.03  # of a Patterson function, over its origin
_LEVEL = 2.0  # added to mean logarithms of it, which are mostly between -3 and -1


@dataclass(frozen=True)
class Observed:
    """What is known: amplitudes on the half grid of maps of one shape.

    amplitude : (B, D, H, K) float32, 0 where not measured, 0 at 000; brought to unit rms of the map
    measured : (B, D, H, K) bool; False outside the resolution, at 000 and where a measurement is missing
    inside : (B, D, H, K) bool; within the resolution, so that missing reflections may be filled in
    d_min : (B,) Å
    """

    amplitude: Tensor
    measured: Tensor
    inside: Tensor
    d_min: Tensor
    shape: Shape

    @classmethod
    def of(cls, amplitude: Tensor, measured: Tensor, inside: Tensor, d_min: Tensor, shape: Shape) -> Observed:
        """Amplitudes of any scale, brought to unit rms."""
        a = torch.where(measured, amplitude, 0.0)
        return cls(a / _rms(a, shape), measured, inside, d_min, shape)

    def condition(self) -> Tensor:
        return condition(self)

    @cached_property
    def vectors(self) -> Tensor:
        """(B, 2, D, H, K) transforms of a Patterson function and of its logarithm.

        Of |F| in place of |F|²: vectors between light atoms are seen beside those between heavy ones, and no
        normalisation by resolution is needed. Where it is below 0.03 of its origin there is no vector.
        """
        P = transform_back(self.amplitude.to(torch.complex64), self.shape)
        P = P / P[:, :1, :1, :1].clamp_min(_TINY)
        logarithm = transform(torch.log(P.clamp_min(0) + _NO_VECTOR)).real
        return torch.stack([self.amplitude, logarithm], 1)


@dataclass(frozen=True)
class State:
    """Where an iteration stands.

    coefficients : (B, D, H, K) complex64, measured amplitudes with the present phases
    cleaned : (B, D, H, W), what the network made of the map before; zeros at the start
    expected
        (B,) of a network that judges: how well it thought that map before to agree with the truth (correlation)
    """

    coefficients: Tensor
    cleaned: Tensor
    expected: Tensor | None = None


@dataclass(frozen=True)
class Settings:
    """How the iteration is run.

    relax : over-relaxations, taken by the starts in turn
    cycles : with over-relaxation
    settling : cycles after them without, which a solution survives
    points_per_d_min : of the grid, as in training
    """

    relax: tuple[float, ...] = (0.5, 0.7, 0.9)
    cycles: int = 48
    settling: int = 12
    points_per_d_min: float = 2.5


def solve_starts(
    problem: PhaseProblem,
    starts: int = 8,
    seed: int = 0,
    time_limit: float | None = None,
    device: torch.device | str | None = None,
    *,
    network: Network | None = None,
    settings: Settings | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
    projections: Sequence[Projection | None] | None = None,
) -> Starts:
    """The network's iteration from `starts` random beginnings at once.

    Parameters
    ----------
    projections : of half grids of `on_network_grid(problem)`, one for each start, which holds all the while; None: free
    network : without, the one of the package (`weights.shipped_network`)
    time_limit : seconds; the iteration settles early then
    watch : called with the number of cycles done and the maps (S, nx, ny, nz) so far, from 0 on

    Returns
    -------
    Starts, with the features "misfit" (R between the amplitudes of the last cleaned map and the measured ones) and
    "steadiness" (correlation of the last two maps: 1 where the iteration stands still); of a network that judges
    also "expected", the correlation with the truth that it expected of the last map but one.
    """
    settings = settings or Settings()
    device = torch.device(device) if device is not None else problem.device
    if network is None:
        from phaseray.phasing.weights import shipped_network

        network = shipped_network(device)
    began = time.perf_counter()
    observed = observed_of(problem.to(device), starts, settings)
    shape = observed.shape
    relax = torch.tensor([settings.relax[i % len(settings.relax)] for i in range(starts)], device=device)
    state = random_state(observed, seed)
    project = None if projections is None else _projected(observed, projections)
    if project is not None:
        state = replace(state, coefficients=observed.amplitude * unit_or_one(project(state.coefficients)))

    def show(cycle: int, coefficients: Tensor) -> None:
        if watch is not None:
            watch(cycle, transform_back(coefficients, shape))

    until = None if time_limit is None else began + time_limit
    over = relax[:, None, None, None]
    state, before, done = iterate(network, observed, state, over, settings, until, show, project)
    return _starts(problem, observed, state, before, done, began)


def settle(
    problem: PhaseProblem,
    phases: Tensor,
    projections: Sequence[Projection | None],
    time_limit: float | None = None,
    *,
    network: Network | None = None,
    settings: Settings | None = None,
) -> Starts:
    """The cycles without over-relaxation, from phases that were found, each under a symmetry that holds all the while.

    Parameters
    ----------
    phases : (S, nx, ny, nz') unit phases
    projections : of half grids of `on_network_grid(problem)`, one for each of the phases; None: no symmetry

    Returns
    -------
    Starts, as `solve_starts`.
    """
    settings = settings or Settings()
    if network is None:
        from phaseray.phasing.weights import shipped_network

        network = shipped_network(problem.device)
    began = time.perf_counter()
    observed = observed_of(problem, len(phases), settings)
    begun = resampled(problem.amplitude * phases, problem.shape, observed.shape).conj().resolve_conj()

    project = _projected(observed, projections)
    X = observed.amplitude * unit(project(begun))
    state = State(X, transform_back(X, observed.shape))
    own = replace(settings, cycles=0)
    until = None if time_limit is None else began + time_limit
    state, before, done = iterate(network, observed, state, 0.0, own, until, project=project)
    return _starts(problem, observed, state, before, done, began)


def _projected(observed: Observed, projections: Sequence[Projection | None]) -> Callable[[Tensor], Tensor]:
    """Transforms (B, D, H, K) to those with each one's symmetry, where amplitudes are measured."""

    def project(G: Tensor) -> Tensor:
        for i, projection in enumerate(projections):
            if projection is not None:
                mean = projection(G[i].conj()).conj()
                G[i] = torch.where(observed.measured[i], mean, G[i])
        return G

    return project


def on_network_grid(problem: PhaseProblem, settings: Settings | None = None) -> PhaseProblem:
    """The same amplitudes on the grid that the network works on."""
    spacing = (settings or Settings()).points_per_d_min
    shape = SpacingGrid(spacing, 4).shape(problem.cell, problem.d_min)
    return problem.on_grid(tuple(max(8, n) for n in shape))  # type: ignore[arg-type]


def observed_of(problem: PhaseProblem, starts: int, settings: Settings) -> Observed:
    """The same problem `starts` times, on the network's grid."""
    on_grid = on_network_grid(problem, settings)

    def many(t: Tensor) -> Tensor:
        return t.expand(starts, *t.shape)

    d_min_S = torch.full((starts,), problem.d_min, device=problem.device)
    within = on_grid.measured | on_grid.missing
    return Observed.of(many(on_grid.amplitude), many(on_grid.measured), many(within), d_min_S, on_grid.shape)


def _starts(
    problem: PhaseProblem, observed: Observed, state: State, before: Tensor, cycles: int, began: float
) -> Starts:
    shape = observed.shape
    steady = _correlation(transform_back(state.coefficients, shape), transform_back(before, shape))
    found = {"misfit": misfit(observed, state.cleaned), "steadiness": steady}
    if state.expected is not None:
        found["expected"] = state.expected
    # torch's sign to the crystallographic one, and to the grid of the problem
    phases = unit_or_one(resampled(state.coefficients.conj(), shape, problem.shape))
    return Starts(
        phases=phases.to(problem.device),
        features={name: value.double().cpu().numpy().astype(np.float64) for name, value in found.items()},
        cycles=cycles,
        seconds=time.perf_counter() - began,
    )


@torch.no_grad()
def iterate(
    network: Network,
    observed: Observed,
    state: State,
    relax: float | Tensor,
    settings: Settings,
    until: float | None = None,
    watch: Callable[[int, Tensor], None] = lambda cycle, coefficients: None,
    project: Callable[[Tensor], Tensor] | None = None,
) -> tuple[State, Tensor, int]:
    """All cycles: the last state, the coefficients of the one before, and how many cycles were run.

    `project` is applied to the transforms of the cleaned maps, before the measured amplitudes are put back.
    """
    told = observed.condition()
    done = 0
    watch(0, state.coefficients)
    for _ in range(settings.cycles):
        if until is not None and time.perf_counter() > until:
            break
        state = put_back(observed, state, clean(network, observed, state, told), relax, project)
        done += 1
        watch(done, state.coefficients)
    before = state.coefficients
    for _ in range(settings.settling):
        before = state.coefficients
        state = put_back(observed, state, clean(network, observed, state, told), 0.0, project)
        done += 1
        watch(done, state.coefficients)
        if until is not None and time.perf_counter() > until:
            break
    return state, before, done


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    norm = a.square().sum(1).sqrt() * b.square().sum(1).sqrt()
    return (a * b).sum(1) / norm.clamp_min(_TINY)


def transform(x: Tensor) -> Tensor:
    """(…, D, H, W) maps to (…, D, H, K)."""
    X: Tensor = torch.fft.rfftn(x, dim=_AXES)
    return X


def transform_back(X: Tensor, shape: Shape) -> Tensor:
    """(…, D, H, K) to maps (…, D, H, W)."""
    x: Tensor = torch.fft.irfftn(X, s=shape, dim=_AXES)
    return x


def condition(observed: Observed) -> Tensor:
    """(B, 2) what the network is told: the resolution, and how much a few reflections dominate.

    log(<|F|⁴> / <|F|²>²) over the measured reflections is large where heavy atoms sit in special places.
    """
    square = observed.amplitude.square()
    n = observed.measured.sum(_AXES).clamp_min(1)
    second = (square.sum(_AXES) / n).clamp_min(_TINY)
    fourth = (square.square().sum(_AXES) / n).clamp_min(_TINY)
    return torch.stack([(observed.d_min - 1.5) / 0.4, torch.log(fourth / second.square()) - 1.5], 1)


def random_state(observed: Observed, seed: int) -> State:
    """Measured amplitudes with the phases of white noise."""
    # drawn on the CPU whatever the device, so that the start does not depend on it
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((len(observed.amplitude), *observed.shape), generator=generator).to(observed.amplitude.device)
    return State(observed.amplitude * unit(transform(noise)), torch.zeros_like(noise))


class Cleaned(NamedTuple):
    """What the network makes of a map.

    density : (B, D, H, W)
    expected : (B,) correlation with the truth that it expects of the map it was given, if it judges
    """

    density: Tensor
    expected: Tensor | None = None


def clean(network: Network, observed: Observed, state: State, told: Tensor) -> Cleaned:
    """The network may read the map, what it made of the one before, and the Patterson function laid on the map."""
    x = transform_back(state.coefficients, observed.shape)
    x = x / x.square().mean(_AXES, keepdim=True).sqrt().clamp_min(_TINY)
    maps = torch.cat([torch.stack([x, state.cleaned], 1), superposed(observed, x)], 1)
    made = network(maps, told).float()
    return Cleaned(made[:, 0], made[:, 1].mean(_AXES) if made.shape[1] > 1 else None)


def superposed(observed: Observed, x: Tensor) -> Tensor:
    """(B, 2, D, H, W): at each place the mean of the Patterson function over the vectors to the densest places.

    An atom belongs where the vectors to all others are in the Patterson function. The first map is the mean of
    the function itself (the sum function of Patterson methods, to unit rms); the second the mean of its logarithm
    (their product function), which falls where but a few vectors are missing.
    """
    dense = x.clamp_min(0).square()
    dense = dense / dense.sum(_AXES, keepdim=True).clamp_min(_TINY)
    both = transform_back(transform(dense)[:, None] * observed.vectors, observed.shape)
    sums, products = both.unbind(1)
    sums = sums / sums.square().mean(_AXES, keepdim=True).sqrt().clamp_min(_TINY)
    return torch.stack([sums, products + _LEVEL], 1)


def put_back(
    observed: Observed,
    state: State,
    made: Cleaned,
    relax: float | Tensor,
    project: Callable[[Tensor], Tensor] | None = None,
) -> State:
    """The state after a map was cleaned, with measured amplitudes; missing ones take the network's own values."""
    G = transform(made.density)
    if project is not None:
        G = project(G)
    scaled = scale(observed, G) * G
    Q = (1 + relax) * scaled - relax * state.coefficients
    X = torch.where(observed.measured, observed.amplitude * unit(Q), torch.where(observed.inside, scaled, 0))
    return State(X, made.density, made.expected)


def scale(observed: Observed, G: Tensor) -> Tensor:
    """(B, 1, 1, 1) least-squares factor from the amplitudes of G to the measured ones."""
    a = torch.where(observed.measured, G.abs(), 0.0)
    power = a.square().sum(_AXES, keepdim=True)
    return (observed.amplitude * a).sum(_AXES, keepdim=True) / power.clamp_min(_TINY)


def misfit(observed: Observed, cleaned: Tensor) -> Tensor:
    """(B,) R factor between the amplitudes of a cleaned map, before the measured ones are put back, and these."""
    G = transform(cleaned)
    a = torch.where(observed.measured, G.abs(), 0.0) * scale(observed, G)
    return (a - observed.amplitude).abs().sum(_AXES) / observed.amplitude.sum(_AXES).clamp_min(_TINY)


def unit(X: Tensor) -> Tensor:
    """X / |X|; unlike that of `problem`, 0 where X is 0: what has no amplitude must not get one."""
    return X / X.abs().clamp_min(_TINY)


def _rms(a: Tensor, shape: Shape) -> Tensor:
    """(B, 1, 1, 1) rms of the map whose half-grid amplitudes are a (Parseval)."""
    twice = a[..., 1 : (shape[2] + 1) // 2]
    total = a.square().sum(_AXES, keepdim=True) + twice.square().sum(_AXES, keepdim=True)
    n = shape[0] * shape[1] * shape[2]
    return (total.sqrt() / n).clamp_min(_TINY)
