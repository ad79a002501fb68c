"""Learned cleaning: a network repairs the map, the measured amplitudes are put back, again and again.

Maps and half grids here belong together by x = irfftn(X), torch's sign: the hand is free until the end, and a
caller who wants phases in the crystallographic sign conjugates. Nothing is assumed about origin, hand or symmetry.

Legend: B crystals or starts, D H W the sides of the grid, K = W // 2 + 1 the half of the last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phaseray.diffraction.grid import Shape

__all__ = ["Observed", "State", "condition", "cycle", "misfit", "random_state", "transform", "transform_back"]

Network = Callable[[Tensor, Tensor], Tensor]
_AXES = (-3, -2, -1)
_TINY = 1e-12


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


@dataclass(frozen=True)
class State:
    """Where an iteration stands.

    coefficients : (B, D, H, K) complex64, measured amplitudes with the present phases
    cleaned : (B, D, H, W), what the network made of the map before; zeros at the start
    """

    coefficients: Tensor
    cleaned: Tensor


def transform(x: Tensor) -> Tensor:
    """(…, D, H, W) maps to (…, D, H, K)."""
    return torch.fft.rfftn(x, dim=_AXES)


def transform_back(X: Tensor, shape: Shape) -> Tensor:
    """(…, D, H, K) to maps (…, D, H, W)."""
    return torch.fft.irfftn(X, s=shape, dim=_AXES)


def condition(observed: Observed) -> Tensor:
    """(B, 2) what the network is told: the resolution, and how much a few reflections dominate.

    log(<|F|⁴> / <|F|²>²) over the measured reflections is large where heavy atoms sit in special places.
    """
    square = observed.amplitude.square()
    n = observed.measured.sum(_AXES).clamp_min(1)
    second = (square.sum(_AXES) / n).clamp_min(_TINY)
    fourth = (square.square().sum(_AXES) / n).clamp_min(_TINY)
    return torch.stack([(observed.d_min - 1.5) / 0.4, torch.log(fourth / second.square()) - 1.5], 1)


def random_state(observed: Observed, generator: torch.Generator | None = None) -> State:
    """Measured amplitudes with the phases of white noise."""
    b = len(observed.amplitude)
    device = observed.amplitude.device
    noise = torch.randn((b, *observed.shape), generator=generator, device=device)
    return State(observed.amplitude * unit(transform(noise)), torch.zeros_like(noise))


def cycle(network: Network, observed: Observed, state: State, told: Tensor, relax: float | Tensor) -> State:
    """One cleaning, and the measured amplitudes put back.

    With relax > 0 the new phases are those of (1 + relax) times the cleaned map less relax times the present one: the
    reflection of the map in what the network would make of it, which leaves dead ends that plain alternation keeps to.
    """
    cleaned = clean(network, observed, state, told)
    return put_back(observed, state, cleaned, relax)


def clean(network: Network, observed: Observed, state: State, told: Tensor) -> Tensor:
    """(B, D, H, W): what the network makes of the present map."""
    x = transform_back(state.coefficients, observed.shape)
    x = x / x.square().mean(_AXES, keepdim=True).sqrt().clamp_min(_TINY)
    return network(torch.stack([x, state.cleaned], 1), told)[:, 0].float()


def put_back(observed: Observed, state: State, cleaned: Tensor, relax: float | Tensor) -> State:
    """The state after `cleaned`, with measured amplitudes; missing reflections take the network's own values."""
    G = transform(cleaned)
    scaled = scale(observed, G) * G
    Q = (1 + relax) * scaled - relax * state.coefficients
    X = torch.where(observed.measured, observed.amplitude * unit(Q), torch.where(observed.inside, scaled, 0))
    return State(X, cleaned)


def scale(observed: Observed, G: Tensor) -> Tensor:
    """(B, 1, 1, 1) least-squares factor from the amplitudes of G to the measured ones."""
    a = torch.where(observed.measured, G.abs(), 0.0)
    power = a.square().sum(_AXES, keepdim=True)
    return (observed.amplitude * a).sum(_AXES, keepdim=True) / power.clamp_min(_TINY)


def misfit(observed: Observed, cleaned: Tensor) -> Tensor:
    """(B,) R factor between the amplitudes of the cleaned map and the measured ones, which it was not shown after."""
    G = transform(cleaned)
    a = torch.where(observed.measured, G.abs(), 0.0) * scale(observed, G)
    return (a - observed.amplitude).abs().sum(_AXES) / observed.amplitude.sum(_AXES).clamp_min(_TINY)


def unit(X: Tensor) -> Tensor:
    """X / |X|; 0 where X is 0."""
    return X / X.abs().clamp_min(_TINY)


def _rms(a: Tensor, shape: Shape) -> Tensor:
    """(B, 1, 1, 1) rms of the map whose half-grid amplitudes are a (Parseval)."""
    twice = a[..., 1 : (shape[2] + 1) // 2]
    total = a.square().sum(_AXES, keepdim=True) + twice.square().sum(_AXES, keepdim=True)
    n = shape[0] * shape[1] * shape[2]
    return (total.sqrt() / n).clamp_min(_TINY)
