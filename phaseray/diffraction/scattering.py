"""Scattering of single atoms: form factors for X-rays and electrons, lengths for neutrons."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.backend import Array, Module
from phaseray.crystal import Rejection

Floats = NDArray[np.float64]
_BLOCK = 4_000_000  # exponentials held at once


class Probe(StrEnum):
    """What is scattered. Never assumed from a file: the user says it."""

    XRAY = "xray"
    ELECTRON = "electron"
    NEUTRON = "neutron"


@lru_cache(maxsize=1024)
def gaussian_coefficients(
    number: int, isotope: int, probe: Probe
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """a (g,), b (g,) in Å² and c of f(s²) = Σ a exp(-b s²) + c, s = sinθ/λ = 1/(2d).

    X-rays: IT C (2006) 6.1.1.4, electrons. Electrons: IT C 4.3.2.2, Å. Neutrons: the bound
    coherent scattering length (Sears 1992), fm, with no dependence on s.

    Raises
    ------
    Rejection
        (unknown_element) The tables do not hold this element.
    """
    element = gemmi.Element("D") if (number, isotope) == (1, 2) else gemmi.Element(number)
    if probe is Probe.NEUTRON:
        return np.zeros(0), np.zeros(0), float(element.neutron92.get_coefs()[0])
    table = element.it92 if probe is Probe.XRAY else element.c4322
    if table is None:
        raise Rejection("unknown_element", f"no {probe} form factor for {element.name} in the International Tables")
    if probe is Probe.XRAY:
        coefficients = np.array(table.get_coefs())
        return coefficients[:4], coefficients[4:8], float(coefficients[8])
    coefficients = np.array(table.get_coefs())
    return coefficients[:5], coefficients[5:10], 0.0


def form_factors(
    elements: Sequence[tuple[int, int]],
    s2: Floats,
    *,
    xp: Module,
    dtype: Any,
    probe: Probe = Probe.XRAY,
    u_iso: float = 0.0,
) -> Array:
    """f(s²) of several elements at once, without anomalous scattering.

    For X-rays f(0) is the number of electrons exactly; the tables' fit misses it by up to 0.1 %.

    Parameters
    ----------
    elements : t pairs of atomic number and isotope
    s2 : (m,) host array, Å⁻²
        (sinθ/λ)².
    u_iso : float
        Å², of a displacement that all share: f is multiplied by exp(-8π² u_iso s²).

    Returns
    -------
    (t, m) array of `xp` and `dtype`
    """
    widths, heights, numbers = _gaussians(tuple(elements), probe)
    if u_iso:
        widths = widths - 8 * np.pi**2 * u_iso
    minus_b, heights_xp = xp.asarray(widths[:, None], dtype=dtype), xp.asarray(heights, dtype=dtype)
    s2_xp = xp.asarray(s2, dtype=dtype)
    step = max(1, _BLOCK // len(widths))
    parts = [heights_xp @ xp.exp(minus_b * s2_xp[i : min(i + step, len(s2))]) for i in range(0, len(s2), step)]
    f = parts[0] if len(parts) == 1 else xp.concat([xp.zeros((len(heights), 0), dtype=dtype), *parts], axis=1)
    if probe is Probe.XRAY:
        for i in (s2 == 0).nonzero()[0].tolist():
            f[:, i : i + 1] = xp.asarray(numbers, dtype=dtype)
    return f


@lru_cache(maxsize=4096)
def _gaussians(elements: tuple[tuple[int, int], ...], probe: Probe) -> tuple[Floats, Floats, Floats]:
    """-b (g,) of all elements' Gaussians together, a (t, g), and the atomic numbers (t, 1)."""
    tables = [gaussian_coefficients(number, isotope, probe) for number, isotope in elements]
    # the constant term is one more Gaussian, of width 0, that all elements share
    widths = np.concatenate([*(b for _, b, _ in tables), [0.0]])
    heights = np.zeros((len(tables), len(widths)))
    column = 0
    for row, (a, _, c) in enumerate(tables):
        heights[row, column : column + len(a)] = a
        heights[row, -1] = c
        column += len(a)
    return -widths, heights, np.array([[float(number)] for number, _ in elements]).reshape(-1, 1)
