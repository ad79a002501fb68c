"""What a network is given and asked for: measured amplitudes to input grids, and the scale of a density.

Only measured information is used: F(000) is left out, and every input is brought to unit rms, so
that the unknown scale of a measurement does not matter.

Legend: B crystals, D H W the sides of the grid, K = W // 2 + 1 the l ≥ 0 half of the last axis.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from phaseray.diffraction.grid import Shape

__all__ = ["InputKind", "centred", "density_scale", "full_grid", "network_input", "target_scale", "uncentred"]

InputKind = Literal["intensities", "amplitudes", "patterson", "zero_phase", "intensities_over_max"]


def network_input(kind: InputKind, amplitude_BDHK: Tensor, shape: Shape) -> Tensor:
    """(B, D, H, W//2+1) amplitudes |F|, FFT order, to (B, 1, D, H, W) of unit rms (float32).

    Parameters
    ----------
    kind
        "intensities", "amplitudes": the whole diffraction pattern |F|² or |F|, h = 000 set to 0.
        "patterson": Σ |F|² exp(-2πi h·x), "zero_phase": Σ |F| exp(-2πi h·x), both over h ≠ 000.
        "intensities_over_max": |F|² over its highest value, not of unit rms (the poster's).
        All have their origin (h = 000, or x = 0) at the centre voxel n // 2 of every axis: see `centred`.
    shape : the three sides of the whole grid
    """
    _check(amplitude_BDHK, shape)
    a_BDHK = amplitude_BDHK.to(torch.float32, copy=True)
    a_BDHK[:, 0, 0, 0] = 0
    if kind in {"intensities", "patterson", "intensities_over_max"}:
        # rms 1 first: squares of amplitudes of heavy crystals, summed, come near the end of float16 and autocast
        a_BDHK = _unit_rms(a_BDHK).square()
    if kind in {"intensities", "amplitudes", "intensities_over_max"}:
        x_BDHW = full_grid(a_BDHK, shape)
    elif kind in {"patterson", "zero_phase"}:
        x_BDHW = torch.fft.irfftn(a_BDHK, s=shape, dim=(1, 2, 3), norm="forward")
    else:
        raise ValueError(f"train.input is one of intensities, amplitudes, patterson, zero_phase; not {kind!r}")
    if kind == "intensities_over_max":
        highest_B111 = x_BDHW.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(x_BDHW.dtype).tiny)
        return centred(x_BDHW / highest_B111)[:, None]
    return _unit_rms(centred(x_BDHW))[:, None]


def centred(x_BDHW: Tensor) -> Tensor:
    """The origin moved from the first voxel, where grids on disk have it, to voxel n // 2.

    Networks see and make centred grids, so that what belongs to the origin of the pattern and of
    the density is in the same place, and away from a zero-padded border.
    """
    shifted: Tensor = torch.fft.fftshift(x_BDHW, dim=(1, 2, 3))
    return shifted


def uncentred(y_BDHW: Tensor) -> Tensor:
    """The inverse of `centred`."""
    shifted: Tensor = torch.fft.ifftshift(y_BDHW, dim=(1, 2, 3))
    return shifted


def full_grid(half_BDHK: Tensor, shape: Shape) -> Tensor:
    """The l < 0 half added by Friedel's law for moduli, |F(-h)| = |F(h)|: to (B, D, H, W), FFT order."""
    d, h, w = shape
    half_BDHK = half_BDHK[..., : w // 2 + 1]
    minus_d = -torch.arange(d, device=half_BDHK.device) % d
    minus_h = -torch.arange(h, device=half_BDHK.device) % h
    l_of_rest = w - torch.arange(w // 2 + 1, w, device=half_BDHK.device)
    rest = half_BDHK.index_select(1, minus_d).index_select(2, minus_h).index_select(3, l_of_rest)
    return torch.cat([half_BDHK, rest], 3)


def density_scale(amplitude_BDHK: Tensor, shape: Shape, volume_B: Tensor) -> Tensor:
    """(B,) rms deviation of each density from its mean, e/Å³, which |F| in electrons fixes (Parseval).

    σ = sqrt(Σ |F(h)|² over h ≠ 000) / V. Networks are taught ρ / σ: so every crystal weighs the
    same, and a squared error of 1 is that of the flat density.
    """
    _check(amplitude_BDHK, shape)
    a_BDHK = amplitude_BDHK.to(torch.float64, copy=True)
    a_BDHK[:, 0, 0, 0] = 0
    square_BDHK = a_BDHK.square()
    twice = square_BDHK[..., 1 : (shape[2] + 1) // 2]  # l > 0 stands for -l as well, the Nyquist plane does not
    total_B = square_BDHK.sum((1, 2, 3)) + twice.sum((1, 2, 3))
    return (total_B.sqrt() / volume_B.to(torch.float64)).to(torch.float32)


def target_scale(
    kind: Literal["sigma", "maximum", "absolute"],
    amplitude_BDHK: Tensor,
    shape: Shape,
    volume_B: Tensor,
    density_BDHW: Tensor | None,
) -> Tensor:
    """(B,) e/Å³: what densities are divided by to be taught, and predictions multiplied with; never 0.

    Parameters
    ----------
    kind
        "sigma": `density_scale`. "maximum": the highest density of each crystal, which only the
        density itself tells. "absolute": 1.
    density_BDHW : the true densities, for "maximum"

    Raises
    ------
    ValueError
        "maximum" without densities: such a network has no scale where the density is not known.
    """
    if kind == "absolute":
        return torch.ones_like(volume_B, dtype=torch.float32)
    if kind == "maximum":
        if density_BDHW is None:
            raise ValueError(
                "a network taught densities over their maxima gives no e/Å³ where the density is not known: "
                "train with train.target=sigma"
            )
        scale_B = density_BDHW.amax((1, 2, 3)).to(torch.float32)
    else:
        scale_B = density_scale(amplitude_BDHK, shape, volume_B)
    # a crystal with no reflection but 000 within the resolution has no scale
    return torch.where(scale_B > 0, scale_B, 1.0)


def _unit_rms(x_BDHW: Tensor) -> Tensor:
    rms_B111 = x_BDHW.square().mean((1, 2, 3), keepdim=True).sqrt()
    return x_BDHW / rms_B111.clamp_min(torch.finfo(x_BDHW.dtype).tiny)


def _check(amplitude_BDHK: Tensor, shape: Shape) -> None:
    expected = (shape[0], shape[1], shape[2] // 2 + 1)
    if tuple(amplitude_BDHK.shape[1:]) != expected:
        raise ValueError(f"amplitudes of a {tuple(shape)} grid are (B, {expected}), not {tuple(amplitude_BDHK.shape)}")
