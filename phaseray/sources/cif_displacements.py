"""Displacement parameters of the sites: U or B, isotropic or anisotropic."""

from __future__ import annotations

import gemmi
import numpy as np

from phaseray.crystal import Floats, Rejection, isotropic_u_aniso, orthogonalization_matrix, symmetric_tensors
from phaseray.sources.cif_sites import Sites, Table

_U_FROM_B = 1 / (8 * np.pi**2)
_AXES = ("11", "22", "33", "12", "13", "23")
# Å². At 5 an atom is smeared over ± 4 Å: no refinement gives that, a wrong unit does.
LARGEST_U = 5.0
# Å². A refined tensor may come out this much below zero along an axis; its atom is then as good as flat there.
SMALLEST_U = -0.005


def read_displacements(
    block: gemmi.cif.Block, table: Table, rows: np.ndarray, sites: Sites, cell: Floats, notes: list[str]
) -> tuple[Floats, Floats | None]:
    """`u_iso` (n,) and `u_aniso` (n, 6) or None, in Å², as `Crystal` defines them; 0 where nothing is known.

    Raises
    ------
    Rejection
        bad_displacement: over 5 Å².
    """
    u_iso = _isotropic(table, rows, notes)
    given = _anisotropic(block, table, rows, notes)
    if given is not None:
        metres = orthogonalization_matrix(cell)
        inverse = np.linalg.inv(metres)
        m = metres * np.sqrt((inverse * inverse).sum(1))
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
    if (u_iso < 0).any():
        notes.append(f"{(u_iso < 0).sum()} negative isotropic displacements were taken as unknown.")
        u_iso[u_iso < 0] = 0.0
    if u_iso.max() > LARGEST_U:
        worst = sites.labels[int(u_iso.argmax())]
        raise Rejection("bad_displacement", f"U_iso of {worst!r} is {u_iso.max():.3g} Å²: is it B, or in other units?")
    if given is None or not len(aniso):
        return u_iso, None
    u_aniso = isotropic_u_aniso(cell, u_iso)
    u_aniso[aniso] = given[aniso]
    return u_iso, u_aniso


def _isotropic(table: Table, rows: np.ndarray, notes: list[str]) -> Floats:
    u = table.numbers("u_iso_or_equiv")
    b = table.numbers("b_iso_or_equiv")
    u_iso = np.full(len(rows), np.nan) if u is None else u[rows, 0]
    if b is not None:
        u_iso = np.where(np.isnan(u_iso), b[rows, 0] * _U_FROM_B, u_iso)
    elif u is not None:
        kinds = table.text("thermal_displace_type") or table.text("adp_type")
        if kinds is not None:
            is_b = np.array([kinds[i][:1] == "B" for i in rows])
            # Diamond and others write B under the tag of U; a real U of this size is rare, a median of it unheard of.
            if is_b.any() and np.nanmedian(u_iso[is_b] if not np.isnan(u_iso[is_b]).all() else [0.0]) > 0.15:
                u_iso = np.where(is_b, u_iso * _U_FROM_B, u_iso)
                notes.append("Displacements marked Biso under the tag of U_iso were read as B.")
    return np.nan_to_num(u_iso, nan=0.0)


def _anisotropic(block: gemmi.cif.Block, table: Table, rows: np.ndarray, notes: list[str]) -> Floats | None:
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
    labels = [table.label[i] for i in rows]
    if loop.label == labels:
        return tensors
    result = np.full((len(rows), 6), np.nan)
    wanted: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        wanted.setdefault(label, []).append(i)
    unsure = set()
    found: dict[str, list[int]] = {}
    for i, label in enumerate(loop.label):
        found.setdefault(label, []).append(i)
    for label, there in found.items():
        here = wanted.get(label, [])
        if len(here) == len(there):
            result[here] = tensors[there]
        elif here:
            unsure.add(label)
    if unsure:
        notes.append(f"Anisotropic displacements of labels that are not unique were left out: {', '.join(sorted(unsure)[:5])}.")
    return result
