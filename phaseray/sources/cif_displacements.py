"""Displacement parameters of the sites: U or B, isotropic or anisotropic."""

from __future__ import annotations

import gemmi
import numpy as np
from numpy.typing import NDArray

from phaseray.crystal import Floats, Rejection, isotropic_u_aniso, symmetric_tensors
from phaseray.sources.cif_lattice import Lattice
from phaseray.sources.cif_sites import Sites
from phaseray.sources.cif_table import Table

_U_FROM_B = 1 / (8 * np.pi**2)
_AXES = ("11", "22", "33", "12", "13", "23")
# Å². At 5 an atom is smeared over ± 4 Å: no refinement gives that, a wrong unit does.
LARGEST_U = 5.0
# Å². A refined tensor may come out this much below zero along an axis; its atom is then as good as flat there.
SMALLEST_U = -0.005


def read_displacements(
    block: gemmi.cif.Block, table: Table, rows: NDArray[np.intp], sites: Sites, lattice: Lattice, notes: list[str]
) -> tuple[Floats, Floats | None]:
    """`u_iso` (n,) and `u_aniso` (n, 6) or None, in Å², as `Crystal` defines them; 0 where nothing is known.

    Raises
    ------
    Rejection
        bad_displacement: over 5 Å².
    """
    u_iso = _isotropic(table, rows, notes)
    given = _anisotropic(block, sites.labels, notes)
    if given is not None:
        m = lattice.orthogonalization * lattice.reciprocal
        aniso = np.flatnonzero(np.isfinite(given).all(1))
        cartesian = m @ symmetric_tensors(given[aniso]) @ m.T
        principal = np.linalg.eigvalsh(cartesian)
        if len(aniso) and principal[:, 2].max() > LARGEST_U:
            worst = sites.labels[aniso[principal[:, 2].argmax()]]
            raise Rejection("bad_displacement", f"U of {worst!r} reaches {principal.max():.3g} Å²: is it B, or β?")
        u_eq = principal.mean(1)
        physical = (principal[:, 0] >= SMALLEST_U) & (u_eq > 0)
        if not physical.all():
            bad = aniso[~physical]
            notes.append(
                f"{len(bad)} displacement tensors are not positive definite (the first: {sites.labels[bad[0]]}); "
                "these atoms were made isotropic."
            )
            u_iso[bad] = np.where(u_iso[bad] > 0, u_iso[bad], u_eq[~physical].clip(min=0))
            aniso, u_eq = aniso[physical], u_eq[physical]
        u_iso[aniso] = u_eq
    if u_iso.min() < 0:
        notes.append(f"{(u_iso < 0).sum()} negative isotropic displacements were taken as unknown.")
        u_iso[u_iso < 0] = 0.0
    if u_iso.max() > LARGEST_U:
        worst = sites.labels[int(u_iso.argmax())]
        raise Rejection("bad_displacement", f"U_iso of {worst!r} is {u_iso.max():.3g} Å²: is it B, or in other units?")
    if given is None or not len(aniso):
        return u_iso, None
    u_aniso = isotropic_u_aniso(lattice.cell, u_iso)
    u_aniso[aniso] = given[aniso]
    return u_iso, u_aniso


def _isotropic(table: Table, rows: NDArray[np.intp], notes: list[str]) -> Floats:
    u, b = table.numbers("u_iso_or_equiv"), table.numbers("b_iso_or_equiv")
    if u is None and b is None:
        return np.zeros(len(rows))
    u_iso = np.full(len(rows), np.nan) if u is None else u[rows, 0]
    if b is not None:
        u_iso = np.where(np.isnan(u_iso), b[rows, 0] * _U_FROM_B, u_iso)
    else:
        kinds = table.text("thermal_displace_type") or table.text("adp_type") or []
        if any(kind[:1] == "B" for kind in kinds):
            is_b = np.array([kinds[i][:1] == "B" for i in rows.tolist()]) & ~np.isnan(u_iso)
            # Diamond and others write B under the tag of U; a real U of this size is rare, a median of it unheard of.
            if is_b.any() and np.median(u_iso[is_b]) > 0.15:
                u_iso = np.where(is_b, u_iso * _U_FROM_B, u_iso)
                notes.append("Displacements marked Biso under the tag of U_iso were read as B.")
    u_iso[np.isnan(u_iso)] = 0.0
    return u_iso


def _anisotropic(block: gemmi.cif.Block, labels: list[str], notes: list[str]) -> Floats | None:
    """(n, 6) U as in the file, NaN for sites without; None if the file has no such loop."""
    loop = Table(block, "_atom_site_aniso", ("label",))
    tensors = loop.numbers(*(f"u_{axes}" for axes in _AXES))
    if tensors is None:
        tensors = loop.numbers(*(f"b_{axes}" for axes in _AXES))
        if tensors is None:
            if len(loop):
                notes.append("The anisotropic displacements are given neither as U nor as B; they were left out.")
            return None
        tensors = tensors * _U_FROM_B
    if loop.label == labels:
        return tensors
    result = np.full((len(labels), 6), np.nan)
    here, there = _positions_of(labels), _positions_of(loop.label)
    shared = [label for label in there if label in here]
    unsure = [label for label in shared if len(here[label]) != len(there[label])]
    sure = [label for label in shared if len(here[label]) == len(there[label])]
    result[[i for label in sure for i in here[label]]] = tensors[[i for label in sure for i in there[label]]]
    if unsure:
        notes.append(f"Anisotropic displacements of labels that are not unique were left out: {', '.join(unsure[:5])}.")
    return result


def _positions_of(labels: list[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        positions.setdefault(label, []).append(i)
    return positions
