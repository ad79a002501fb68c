"""What the phasing network is taught: problems drawn on the fly, and targets moved to fit where an iteration stands.

A problem is a crystal at a resolution, with a displacement, an origin, a hand, errors and gaps drawn anew each time.
The network sees the states that its own iteration visits, not only phases spoilt at random: that makes the difference.

Legend: B crystals, D H W the sides of the grid, K = W // 2 + 1 the half of the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phaseray.config import PhasingConfig
from phaseray.diffraction.grid import Shape
from phaseray.phasing.network import (
    Cleaned,
    Observed,
    Settings,
    State,
    clean,
    iterate,
    put_back,
    random_state,
    transform,
    transform_back,
    unit,
)
from phaseray.training.checkpoint import ModelMeta
from phaseray.training.inputs import density_scale
from phaseray.training.protocols import Amplitudes, CellBatch, TrainingData
from phaseray.training.resident import MULTIPLE, ResidentCrystals, indices, reciprocal_metric
from phaseray.training.state import TrainingState

__all__ = ["PhasingObjective", "Problem", "aligned", "draw_problem", "phased", "problem_of", "spoilt_state"]

_AXES = (-3, -2, -1)
_TINY = 1e-12
_HELD_OUT = 32  # batches of resident crystals that are validated with
_LEAST_REFLECTIONS = 8  # that are not nearly extinct; with fewer there is nothing to learn


@dataclass(frozen=True)
class Problem:
    """Amplitudes, and the map that belongs to them.

    truth : (B, D, H, K) complex64, coefficients of the true map, of unit rms
    sound : (B,) float32, 1, or 0 where the resolution leaves too few reflections to learn from
    """

    observed: Observed
    truth: Tensor
    sound: Tensor


@dataclass
class _UnderWay:
    """A batch of problems, and how far the iteration that the network drives has come with it."""

    problem: Problem
    told: Tensor
    state: State
    relax: float


class PhasingObjective:
    """Maps cleaned at the states of iterations that the network itself drives from spoilt phases.

    Problems stay in a pool. Every step takes one batch of them, learns from the state its iteration stands at, and
    moves that on by one cycle with the very map that was learned from: states that the iteration visits cost nothing
    more than states spoilt at random. Every `config.visits` steps a new batch takes the place of another, drawn by
    chance, so that an iteration is followed for `visits` cycles in the mean, and some for many.

    The loss is the squared error against the true map, moved and inverted to fit the state and what the network
    makes of it, in units of the map's variance: 1 is that of a flat map. With `config.through` a step learns from so
    many cycles more, and gradients go back through the amplitudes that were put back between them; none goes from one
    step to the next.
    Batches come from the loop, or, with `config.resident`, from crystals that stay on the device: then the loop's are
    not asked for. The pool is not part of a checkpoint: a training that goes on fills it anew, beginning with its first
    step (an epoch that has no `steps_per_epoch` may then end up to `visits` steps sooner).
    """

    def __init__(self, config: PhasingConfig) -> None:
        self.config = config
        self.visits = config.visits
        self.pool: list[_UnderWay] = []
        self.resident: dict[str, ResidentCrystals] = {}

    def begin(self, state: TrainingState, data: TrainingData) -> None:
        if self.config.resident:
            splits = [split for split in ("train", "val") if data.count(split)]
            self.resident = {s: ResidentCrystals(data, s, state.device, self.config.favour) for s in splits}
            if absent := self.resident["train"].absent:
                raise ValueError(
                    f"train.phasing.favour names {', '.join(absent)}, and the id of no training crystal begins so"
                )

    def visit(self, step: int) -> int:
        if self.config.resident:
            return step + 1
        return step % self.visits if self.pool else 0

    def held_out(self, state: TrainingState, rank: int, world: int) -> Iterable[None] | None:
        if not self.config.resident:
            return None
        return (None for _ in range(rank, _HELD_OUT, world))

    def losses(
        self,
        state: TrainingState,
        batch: CellBatch | None,
        network: Callable[..., Tensor],
        *,
        generator: torch.Generator,
        training: bool,
    ) -> Tensor:
        if not training:
            return self._along(network, self._begun(state, "val", batch, generator))
        taken = self._taken(state, batch, generator)
        before = taken.state
        if float(torch.rand(1, generator=generator, device=state.device)) < self.config.forgetting:
            before = State(before.coefficients, torch.zeros_like(before.cleaned))
        total_B = torch.zeros_like(taken.problem.sound)
        for more in range(self.config.through, -1, -1):
            errors, before = _cycle(network, taken, before, through=more > 0)
            judging = 0.0 if errors.judging is None else self.config.judging * errors.judging
            total_B = total_B + (errors.cleaning + judging) / (self.config.through + 1)
        taken.state = _apart(before)
        return total_B * taken.problem.sound

    def _taken(self, state: TrainingState, batch: CellBatch | None, generator: torch.Generator) -> _UnderWay:
        """What this step learns from: a new batch, or one of those under way."""
        if batch is None and not (self.config.resident and (not self.pool or state.cursor.steps % self.visits == 0)):
            # the next in turn
            taken = self.pool.pop(0)
            self.pool.append(taken)
            return taken
        if len(self.pool) >= self.config.pool:
            self.pool.pop(int(torch.randint(len(self.pool), (1,), generator=generator, device=state.device)))
        self.pool.append(self._begun(state, "train", batch, generator))
        return self.pool[-1]

    def _begun(
        self, state: TrainingState, split: str, batch: CellBatch | None, generator: torch.Generator
    ) -> _UnderWay:
        if batch is None:
            assert state.config.batch_voxels is not None
            d = _draw_d_min(state.d_min, self.config, generator)
            some = self.resident[split].draw(d, self.config.points_per_d_min, state.config.batch_voxels, generator)
            problem = problem_of(*some, d, self.config, generator)
        else:
            density_BDHW = torch.tensor(batch.density, dtype=torch.float32, device=state.device)
            cell_B6 = torch.tensor(batch.cell, dtype=torch.float64, device=state.device)
            problem = draw_problem(density_BDHW, cell_B6, state.d_min, self.config, generator)
        which = int(torch.randint(len(self.config.relax), (1,), generator=generator, device=state.device))
        at = spoilt_state(problem, generator, self.config.random_fraction)
        return _UnderWay(problem, problem.observed.condition(), at, self.config.relax[which])

    def _along(self, network: Callable[..., Tensor], at: _UnderWay) -> Tensor:
        """(B,) mean losses of the first `visits` cycles."""
        total = torch.zeros_like(at.problem.sound)
        for _ in range(self.visits):
            errors, at.state = _cycle(network, at, at.state)
            total = total + errors.cleaning / self.visits
        return total * at.problem.sound


def _apart(state: State) -> State:
    """The same without its gradient."""
    expected = None if state.expected is None else state.expected.detach()
    return State(state.coefficients.detach(), state.cleaned.detach(), expected)


class _Errors(NamedTuple):
    """(B,) of the cleaned map, in units of the truth's variance; and squared, of the correlation expected."""

    cleaning: Tensor
    judging: Tensor | None


def _cycle(
    network: Callable[..., Tensor], at: _UnderWay, before: State, through: bool = False
) -> tuple[_Errors, State]:
    """Errors of what the network makes of a state, and the state that follows, with its gradient if `through`."""
    observed = at.problem.observed
    made = clean(network, observed, before, at.told)
    density = made.density.detach()
    x = transform_back(before.coefficients.detach(), observed.shape)
    target = aligned(at.problem.truth, x + density, observed.shape)
    cleaning = (made.density - target).square().mean(_AXES)
    judging = None
    if made.expected is not None:
        norm = (x.square().mean(_AXES) * target.square().mean(_AXES)).sqrt().clamp_min(_TINY)
        judging = (made.expected - (x * target).mean(_AXES) / norm).square()
    following = made if through else Cleaned(density, made.expected)
    return _Errors(cleaning, judging), put_back(observed, before, following, at.relax)


@torch.no_grad()
def phased(model: nn.Module, batch: Amplitudes, meta: ModelMeta, cycles: int = 24) -> NDArray[np.float32]:
    """(B, D, H, W) e/Å³: one short iteration from random phases for each crystal of a batch, on the batch's own grid.

    What evaluation compares with the networks that make a density in one go; `phasing.solve_map` takes many starts and
    more cycles.
    """
    device = next(model.parameters()).device
    amplitude = torch.tensor(batch.amplitude, dtype=torch.float32, device=device)
    amplitude[:, 0, 0, 0] = 0
    measured = amplitude > 0
    d_min_B = torch.full((len(amplitude),), meta.d_min, device=device)
    observed = Observed.of(amplitude, measured, measured, d_min_B, batch.shape)
    settings = Settings(cycles=cycles, settling=cycles // 4)
    state, _, _ = iterate(model, observed, random_state(observed, seed=0), torch.tensor(0.7, device=device), settings)
    volume_B = torch.tensor(batch.volume, dtype=torch.float32, device=device)
    scale_B = density_scale(amplitude, batch.shape, volume_B)
    maps = transform_back(state.coefficients, batch.shape)
    rms_B = maps.square().mean(_AXES).sqrt().clamp_min(_TINY)
    return (maps * (scale_B / rms_B)[:, None, None, None]).cpu().numpy()


def draw_problem(
    density_BDHW: Tensor, cell_B6: Tensor, data_d_min: float, drawing: PhasingConfig, generator: torch.Generator
) -> Problem:
    """A problem from densities at the resolution of the data set: one drawn resolution a batch, all else a crystal.

    The grid is cut down to what the drawn resolution needs; the hand and the origin (also between grid points) are
    drawn as well, so that no grid point is special.
    """
    d = _draw_d_min(data_d_min, drawing, generator)
    edges = cell_B6[:, :3].amax(0).tolist()
    whole: Shape = tuple(density_BDHW.shape[1:])  # type: ignore[assignment]
    shape: Shape = tuple(
        min(n, MULTIPLE * max(1, math.ceil(e * drawing.points_per_d_min / d / MULTIPLE - 1e-9)))
        for e, n in zip(edges, whole, strict=True)
    )
    F = _cut(transform(density_BDHW.float()), whole, shape)
    return problem_of(F, reciprocal_metric(cell_B6), shape, d, drawing, generator)


def _draw_d_min(data_d_min: float, drawing: PhasingConfig, generator: torch.Generator) -> float:
    low, high = max(drawing.d_min[0], data_d_min), drawing.d_min[1]
    return low + (high - low) * float(torch.rand(1, generator=generator, device=generator.device))


def problem_of(
    F: Tensor, metric_B33: Tensor, shape: Shape, d: float, drawing: PhasingConfig, generator: torch.Generator
) -> Problem:
    """A problem from coefficients (B, D, H, K) on the grid of the resolution `d`: all is drawn but that.

    `metric_B33` is that of reciprocal space, Å⁻². What `F` holds beyond the resolution is left out.
    """
    device, b = F.device, len(F)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape or (b,), generator=generator, device=device) * (high - low) + low

    hkl = indices(shape, device)
    metric = metric_B33.to(F.real.dtype)
    inverse_d2 = torch.einsum("dhki,bij,dhkj->bdhk", hkl, metric, hkl)
    inside = (inverse_d2 <= 1 / d**2) & ~_nyquist(hkl, shape)
    inside[:, 0, 0, 0] = False
    # |F| falls by exp(-B s²) with s² = 1 / (4 d²)
    F = F * torch.exp(-uniform(*drawing.extra_b)[:, None, None, None] * inverse_d2 / 4) * inside
    F = torch.where(uniform(0, 1)[:, None, None, None] < 0.5, F, F.conj())
    F = F * _translation(hkl, uniform(0, 1, b, 3))

    noisy = (uniform(0, 1) < drawing.noisy_fraction)[:, None, None, None]
    noise = uniform(0, drawing.largest_noise)[:, None, None, None] * noisy
    gap = uniform(0, drawing.largest_gap)[:, None, None, None] * noisy
    errors = torch.randn(F.shape, generator=generator, device=device)
    missing = torch.rand(F.shape, generator=generator, device=device) < gap
    # on the plane l = 0 (and Nyquist, which is empty) h and -h are both there and must agree
    errors, missing = _friedel(errors, shape), _friedel(missing, shape)
    amplitude = F.abs() * (1 + noise * errors).clamp_min(0)
    d_B = torch.full((b,), d, device=device)
    observed = Observed.of(amplitude, inside & ~missing, inside, d_B, shape)
    truth = F / transform_back(F, shape).square().mean(_AXES, keepdim=True).sqrt().clamp_min(_TINY)
    seen = observed.amplitude > 0.02 * observed.amplitude.amax(_AXES, keepdim=True)
    sound = (seen.sum(_AXES) >= _LEAST_REFLECTIONS).to(torch.float32)
    return Problem(observed, truth, sound)


def spoilt_state(problem: Problem, generator: torch.Generator, random_fraction: float = 0.5) -> State:
    """A start: true phases mixed with random ones, from nearly right to wholly random (`random_fraction` of them)."""
    observed = problem.observed
    b, device = len(observed.amplitude), observed.amplitude.device
    noise = unit(transform(torch.randn((b, *observed.shape), generator=generator, device=device)))
    t = torch.rand(b, generator=generator, device=device).sqrt()
    t = torch.where(torch.rand(b, generator=generator, device=device) < random_fraction, 1.0, t)
    angle = (t * (math.pi / 2))[:, None, None, None]
    mixed = unit(torch.cos(angle) * unit(problem.truth) + torch.sin(angle) * noise)
    zeros = torch.zeros((b, *observed.shape), device=device)
    return State(observed.amplitude * mixed, zeros)


def aligned(truth_BDHK: Tensor, like_BDHW: Tensor, shape: Shape) -> Tensor:
    """(B, D, H, W) the true maps, inverted and moved (also between grid points) to correlate best with `like`.

    The intensities leave origin and hand open; this takes the choice that the state has already begun to make.
    """
    Y = transform(like_BDHW)
    as_is, inverse = (transform_back(Y * T, shape) for T in (truth_BDHK.conj(), truth_BDHK))
    inverted = inverse.flatten(1).amax(1) > as_is.flatten(1).amax(1)
    correlation = torch.where(inverted[:, None, None, None], inverse, as_is)
    shift = _maximum(correlation)
    T = torch.where(inverted[:, None, None, None], truth_BDHK.conj(), truth_BDHK)
    hkl = indices(shape, like_BDHW.device)
    # moving a map by t multiplies its coefficients (torch's sign) by exp(-2πi h·t)
    return transform_back(T * _translation(hkl, -shift), shape)


def _maximum(map_BDHW: Tensor) -> Tensor:
    """(B, 3) fractional position of the largest value, refined by a parabola along each axis."""
    shape = map_BDHW.shape[1:]
    index = map_BDHW.flatten(1).argmax(1)
    point = torch.stack(torch.unravel_index(index, shape), 1)
    b = torch.arange(len(map_BDHW), device=map_BDHW.device)
    top = map_BDHW[b, point[:, 0], point[:, 1], point[:, 2]]
    refined = []
    for axis, n in enumerate(shape):
        sides = []
        for step in (-1, 1):
            at = point.clone()
            at[:, axis] = (at[:, axis] + step) % n
            sides.append(map_BDHW[b, at[:, 0], at[:, 1], at[:, 2]])
        curvature = (2 * top - sides[0] - sides[1]).clamp_min(_TINY)
        offset = (0.5 * (sides[1] - sides[0]) / curvature).clamp(-0.5, 0.5)
        refined.append((point[:, axis] + offset) / n)
    return torch.stack(refined, 1)


def _nyquist(hkl: Tensor, shape: Shape) -> Tensor:
    half = torch.tensor([n / 2 for n in shape], device=hkl.device)
    return (hkl.abs() == half).any(-1)


def _translation(hkl: Tensor, shift_B3: Tensor) -> Tensor:
    """(B, D, H, K) exp(2πi h·t)."""
    angle = 2 * math.pi * torch.einsum("dhki,bi->bdhk", hkl, shift_B3.to(hkl.dtype))
    return torch.polar(torch.ones_like(angle), angle)


def _cut(F: Tensor, whole: Shape, shape: Shape) -> Tensor:
    """The coefficients that a smaller grid holds; its Nyquist planes are still to be emptied."""
    hkl = indices(shape, F.device)
    index = [hkl[..., axis].long() % whole[axis] for axis in (0, 1)]
    return F[:, index[0], index[1], hkl[..., 2].long()]


def _friedel(values: Tensor, shape: Shape) -> Tensor:
    """Values on the l = 0 plane made the same for h and -h."""
    plane = values[..., 0]
    minus = plane.flip(1, 2).roll((1, 1), (1, 2))
    hkl = indices(shape, values.device)[:, :, 0]
    first = (hkl[..., 0] > 0) | ((hkl[..., 0] == 0) & (hkl[..., 1] >= 0))
    out = values.clone()
    out[..., 0] = torch.where(first, plane, minus)
    return out
