"""The kernel beside gemmi and cctbx: the same crystals, the same reflections, one thread, one run.

    OMP_NUM_THREADS=1 python benchmarks/kernel.py FOLDER_OR_ARCHIVE_OF_CIFS [--json out.json]

Without an argument the AFLOW prototypes are used. For every crystal of at most --max-atoms atoms in
the cell: F on the half grid and the density (ours), and F of the reflections in that half grid by
gemmi (StructureFactorCalculatorX, direct summation) and, where cctbx is installed (the extra `bench`),
by its two algorithms, on the same atoms of the whole cell. Differences are shares of F(000).
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from phaseray import Crystal, Rejection
from phaseray.config import CifSource, PrototypesSource
from phaseray.diffraction.maps import density_from_half_grid
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.sources.files import list_inputs, read_inputs

SHAPE, D_MIN = (32, 32, 32), 1.0


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


def timed_ours(crystal: Crystal) -> tuple[float, float, np.ndarray]:
    t0 = time.perf_counter()
    f = structure_factor_grid(crystal, SHAPE, D_MIN)
    t1 = time.perf_counter()
    density_from_half_grid(f, SHAPE, crystal.volume)
    return t1 - t0, time.perf_counter() - t1, f


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
    # each program goes through all crystals by itself, as it would in use, so that neither starts on the other's
    # caches; the better of two rounds counts
    ours = [timed_ours(c) for c in chosen]
    ours = [min(first, timed_ours(c), key=lambda t: t[0] + t[1]) for first, c in zip(ours, chosen, strict=True)]
    rows, worst = [], 0.0
    by_system: dict[str, list[tuple[Crystal, int, float]]] = {}
    for crystal, (f_seconds, fft_seconds, f) in zip(chosen, ours, strict=True):
        where, hkl = indices(f)
        theirs, summed = min(timed_gemmi(crystal, hkl), timed_gemmi(crystal, hkl), key=lambda t: t[0])
        error = largest_difference(crystal, f[tuple(where.T)], summed, hkl)
        worst = max(worst, error)
        by_system.setdefault(system(crystal), []).append((crystal, len(hkl), error))
        rows.append((crystal.n_atoms, len(hkl), crystal.u_aniso is not None, f_seconds, fft_seconds, theirs))
    references = timed_cctbx(chosen, [indices(f)[1] for _, _, f in ours])
    atoms, reflections, aniso, ours_f, fft, theirs = (np.array(column) for column in zip(*rows, strict=True))
    together = ours_f + fft
    facts: dict[str, Any] = {
        "crystals": len(rows),
        "anisotropic": int(aniso.sum()),
        "median_atoms": float(np.median(atoms)),
        "median_reflections": float(np.median(reflections)),
        "ms_f": 1e3 * float(ours_f.mean()),
        "ms_density": 1e3 * float(fft.mean()),
        "ms_both": 1e3 * float(together.mean()),
        "ms_both_median": 1e3 * float(np.median(together)),
        "ms_gemmi": 1e3 * float(theirs.mean()),
        "ms_gemmi_median": 1e3 * float(np.median(theirs)),
        "ratio_of_means": float(theirs.mean() / together.mean()),
        "ratio_of_medians": float(np.median(theirs) / np.median(together)),
        "largest_difference_of_f000": worst,
    }
    print(
        f"{facts['crystals']} crystals ({facts['anisotropic']} anisotropic), median {facts['median_atoms']:.0f} atoms"
    )
    print(f"F on the half grid   {facts['ms_f']:8.2f} ms")
    print(f"density (FFT)        {facts['ms_density']:8.2f} ms")
    print(f"both                 {facts['ms_both']:8.2f} ms   (median {facts['ms_both_median']:.2f})")
    print(f"gemmi, F alone       {facts['ms_gemmi']:8.2f} ms   (median {facts['ms_gemmi_median']:.2f})")
    print(f"faster by            {facts['ratio_of_means']:8.1f} x    (medians {facts['ratio_of_medians']:.1f})")
    print(f"largest |ΔF| / F(000) {worst:.1e}")
    for algorithm in ("direct", "fft") if references else ():
        seconds = np.array([r[algorithm][0] for r in references])
        errors = [
            largest_difference(c, f[tuple(indices(f)[0].T)], r[algorithm][1], indices(f)[1])
            for c, (_, _, f), r in zip(chosen, ours, references, strict=True)
        ]
        facts[f"cctbx_{algorithm}"] = {
            "ms": 1e3 * float(seconds.mean()),
            "ms_median": 1e3 * float(np.median(seconds)),
            "ratio_of_means": float(seconds.mean() / together.mean()),
            "ratio_to_f_alone": float(seconds.mean() / ours_f.mean()),
            "largest_difference_of_f000": max(errors),
            "median_largest_difference": float(np.median(errors)),
        }
        print(
            f"cctbx, {algorithm:6s}        {1e3 * seconds.mean():8.2f} ms   (median {1e3 * np.median(seconds):.2f}); "
            f"faster by {seconds.mean() / together.mean():.1f} x;"
            f" largest |ΔF| / F(000) {max(errors):.1e} (median {np.median(errors):.1e})"
        )
    print(
        f"\n{'system':14s}{'crystals':>9s}{'anisotropic':>13s}{'partial':>9s}{'reflections':>13s}   max |ΔF| / F(000)"
    )
    for name, found in sorted(by_system.items()):
        anisotropic = sum(c.u_aniso is not None for c, _, _ in found)
        partial = sum(bool((c.occupancy < 1).any()) for c, _, _ in found)
        total, error = sum(n for _, n, _ in found), max(e for _, _, e in found)
        print(f"{name:14s}{len(found):9d}{anisotropic:13d}{partial:9d}{total:13,d}   {error:.1e}")
    facts["by_system"] = {name: max(e for _, _, e in found) for name, found in by_system.items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
