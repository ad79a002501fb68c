"""The kernel beside gemmi and cctbx: the same crystals, the same reflections, one thread, one run.

    OMP_NUM_THREADS=1 python benchmarks/kernel.py FOLDER_OR_ARCHIVE_OF_CIFS [--json out.json]

Without an argument the AFLOW prototypes are used. For every crystal of at most --max-atoms atoms in
the cell: F on the half grid and the density (ours), and F of the reflections in that half grid by
gemmi (StructureFactorCalculatorX, direct summation) and, where cctbx is installed (the extra `bench`),
by its two algorithms, on the same atoms of the whole cell. The columns "means" and "medians" say how
many times our time for F and the density each takes. Differences from our F are shares of F(000),
without 000. Making each program's own structure of the crystal is not timed.

cctbx's FFT runs with its own defaults (wing_cutoff 1e-3, quality factor 100), where it is fastest: it
cuts atoms off where their density is a thousandth, and so misses F by about a hundredth of F(000).
"""

from __future__ import annotations

import os

# before NumPy: the promise is for one thread
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from phaseray import Crystal, Rejection
from phaseray.config import CifSource, PrototypesSource
from phaseray.diffraction.maps import structure_factors_and_density
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.sources.files import list_inputs, read_inputs

SHAPE, D_MIN = (32, 32, 32), 1.0
ROUNDS = 3  # the best of which counts, for every program


def indices(f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in the half grid that hold reflections, and their Miller indices."""
    where = np.argwhere(f != 0)
    # of the pairs (h, k, 0) and (-h, -k, 0) one is enough
    mate = (where[:, 2] == 0) & ((where[:, 0] > SHAPE[0] // 2) | ((where[:, 0] == 0) & (where[:, 1] > SHAPE[1] // 2)))
    where = where[~mate]
    hkl = where.copy()
    for axis in (0, 1):
        hkl[:, axis] -= np.where(where[:, axis] > SHAPE[axis] // 2, SHAPE[axis], 0)
    return where, hkl


def crystals(source: str | None, max_atoms: int, most: int) -> list[Crystal]:
    config = CifSource(path=source) if source else PrototypesSource()
    kept = []
    for _, found, _ in read_inputs(list_inputs(config, 0)):
        if not isinstance(found, Rejection) and found.n_atoms <= max_atoms:
            kept.append(found.with_default_u_iso(0.02))
    step = max(1, len(kept) // most)
    return kept[::step]


def largest_difference(crystal: Crystal, f: np.ndarray, reference: np.ndarray, hkl: np.ndarray) -> float:
    """Of all reflections but 000: the tables' fit misses f(0) = Z, which we give exactly."""
    return float(np.abs(f - reference)[(hkl != 0).any(1)].max(initial=0.0) / crystal.n_electrons)


def system(crystal: Crystal) -> str:
    group = crystal.space_group_number and gemmi.find_spacegroup_by_number(crystal.space_group_number)
    return group.crystal_system_str() if group else "unknown"


def timed_ours(chosen: list[Crystal]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Seconds a crystal for F alone and for F with the density, and F. The better of ROUNDS rounds counts."""
    f_seconds, both_seconds, grids = [], [], []
    for _ in range(ROUNDS):
        # nothing that a crystal remembers of an earlier round
        fresh = [replace(c) for c in chosen]
        seconds, grids = [], []
        for crystal in fresh:
            began = time.perf_counter()
            f = structure_factor_grid(crystal, SHAPE, D_MIN)
            seconds.append(time.perf_counter() - began)
            grids.append(f)
        f_seconds.append(seconds)
        fresh = [replace(c) for c in chosen]
        seconds = []
        for crystal in fresh:
            began = time.perf_counter()
            structure_factors_and_density(crystal, SHAPE, D_MIN)
            seconds.append(time.perf_counter() - began)
        both_seconds.append(seconds)
    return np.min(f_seconds, 0), np.min(both_seconds, 0), grids


def timed_gemmi(crystal: Crystal, hkl: np.ndarray) -> tuple[float, np.ndarray]:
    small = crystal.to_gemmi()
    calculator = gemmi.StructureFactorCalculatorX(small.cell)
    reflections = hkl.tolist()
    t0 = time.perf_counter()
    summed = [calculator.calculate_sf_from_small_structure(small, h) for h in reflections]
    return time.perf_counter() - t0, np.array(summed)


def timed_cctbx(chosen: list[Crystal], reflections: list[np.ndarray]) -> list[dict[str, tuple[float, np.ndarray]]]:
    """For each crystal: algorithm to seconds and values. Nothing where cctbx is not installed."""
    if find_spec("cctbx") is None:
        print("cctbx is not installed (pip install -e '.[bench]'): left out")
        return []
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "crystals", Path(folder) / "results"
        handed = [
            {
                "cell": c.cell.tolist(), "symbols": [gemmi.Element(int(z)).name for z in c.numbers],
                "positions": c.positions.tolist(), "occupancy": c.occupancy.tolist(), "u_iso": c.u_iso.tolist(),
                "u_aniso": None if c.u_aniso is None else c.u_aniso.tolist(), "hkl": hkl.tolist(),
            }
            for c, hkl in zip(chosen, reflections, strict=True)
        ]  # fmt: skip
        source.write_bytes(pickle.dumps(handed))
        script = Path(__file__).with_name("cctbx_reference.py")
        subprocess.run([sys.executable, script, source, target], check=True)
        return list(pickle.loads(target.read_bytes()))  # noqa: S301 - written a moment ago by our own process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="folder, archive or file of CIFs")
    parser.add_argument("--max-atoms", type=int, default=200)
    parser.add_argument("--most", type=int, default=100_000, help="no more crystals than about this, evenly taken")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = crystals(arguments.source, arguments.max_atoms, arguments.most)
    # each program goes through all crystals by itself, as it would in use, so that none starts on another's caches
    f_seconds, both_seconds, grids = timed_ours(chosen)
    places = [indices(f) for f in grids]
    ours = [f[tuple(where.T)] for f, (where, _) in zip(grids, places, strict=True)]
    reflections = [hkl for _, hkl in places]
    by_gemmi = [
        min((timed_gemmi(c, hkl) for _ in range(ROUNDS)), key=lambda t: t[0])
        for c, hkl in zip(chosen, reflections, strict=True)
    ]
    by_cctbx = timed_cctbx(chosen, reflections)
    others = {"gemmi, direct": by_gemmi}
    for algorithm in ("direct", "fft") if by_cctbx else ():
        others[f"cctbx, {algorithm}"] = [r[algorithm] for r in by_cctbx]

    anisotropic = sum(c.u_aniso is not None for c in chosen)
    facts: dict[str, Any] = {
        "crystals": len(chosen),
        "anisotropic": anisotropic,
        "median_atoms": float(np.median([c.n_atoms for c in chosen])),
        "median_reflections": float(np.median([len(hkl) for hkl in reflections])),
        "programs": {},
    }
    print(f"{len(chosen):,} crystals ({anisotropic} anisotropic), median {facts['median_atoms']:.0f} atoms\n")
    print(f"{'':28s}{'mean ms':>9s}{'median':>9s}{'means':>9s}{'medians':>9s}{'max |ΔF|/F000':>16s}{'median':>10s}")
    rows: list[tuple[str, np.ndarray, np.ndarray | None]] = [
        ("phaseray, F and density", both_seconds, None),
        ("phaseray, F alone", f_seconds, None),
    ]
    for name, results in others.items():
        errors = [
            largest_difference(c, f, summed, hkl)
            for c, f, (_, summed), hkl in zip(chosen, ours, results, reflections, strict=True)
        ]
        rows.append((f"{name}, F alone", np.array([t for t, _ in results]), np.array(errors)))
    for name, seconds, errors in rows:
        fact = {
            "ms": 1e3 * float(seconds.mean()),
            "ms_median": 1e3 * float(np.median(seconds)),
            "times_ours": float(seconds.mean() / both_seconds.mean()),
            "times_ours_median": float(np.median(seconds) / np.median(both_seconds)),
        }
        line = f"{name:28s}{fact['ms']:9.2f}{fact['ms_median']:9.2f}"
        line += f"{fact['times_ours']:8.1f}x{fact['times_ours_median']:8.1f}x"
        if errors is not None:
            fact |= {"largest_difference": float(errors.max()), "median_difference": float(np.median(errors))}
            line += f"{errors.max():16.1e}{np.median(errors):10.1e}"
        facts["programs"][name] = {key: float(f"{value:.4g}") for key, value in fact.items()}
        print(line)

    print(
        f"\n{'system':14s}{'crystals':>9s}{'anisotropic':>13s}{'partial':>9s}{'reflections':>13s}   max |ΔF| / F(000)"
    )
    errors = rows[2][2]
    names = [system(c) for c in chosen]
    facts["by_system"] = {}
    for name in sorted(set(names)):
        own = [i for i, n in enumerate(names) if n == name]
        aniso = sum(chosen[i].u_aniso is not None for i in own)
        partial = sum(bool((chosen[i].occupancy < 1).any()) for i in own)
        total, error = sum(len(reflections[i]) for i in own), max(errors[i] for i in own)
        print(f"{name:14s}{len(own):9d}{aniso:13d}{partial:9d}{total:13,d}   {error:.1e}")
        facts["by_system"][name] = float(f"{error:.2g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
