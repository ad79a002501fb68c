"""Charge flipping beside that of cctbx: the same crystals, the same amplitudes, the same seconds, one thread, one run.

    OMP_NUM_THREADS=1 python benchmarks/phasing.py --cctbx ENV/bin/python [--d-min 0.9 1.5] [--max 20] [--json out.json]

The crystals are AFLOW prototypes (of `phaseray benchmark-phasing --set aflow`) that zero phases do not solve. Solved as
everywhere: map_cc ≥ 0.8 and 0.8 of the atoms found. cctbx starts anew until it says that it has converged.
"""

from __future__ import annotations

import os

# before NumPy: the comparison is for one thread
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import argparse
import json
import pickle
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from phaseray import Crystal, solve_map
from phaseray.benchmark_phasing import DEFAULT_U_ISO, aflow
from phaseray.diffraction.structure_factors import structure_factors
from phaseray.evaluation.metrics import correlation_maps, solved, trivial
from phaseray.evaluation.peaks import atoms_found
from phaseray.phasing.problem import PhaseProblem, density_of, half_sphere, unit


def scored(crystal: Crystal, hkl: np.ndarray, f: np.ndarray, truth: np.ndarray, d_min: float) -> tuple[float, bool]:
    """map_cc, and whether solved, of true amplitudes with the phases of f."""
    table = correlation_maps(
        density(crystal, hkl, f, abs(truth), d_min), density(crystal, hkl, truth, abs(truth), d_min)
    )
    maps = density(crystal, hkl, f, abs(truth), d_min), density(crystal, hkl, truth, abs(truth), d_min)
    found = atoms_found(*maps, crystal.cell, crystal.positions, crystal.numbers, d_min=d_min, correlations=table)
    return float(table.max()), solved(float(table.max()), found.recall)


def density(crystal: Crystal, hkl: np.ndarray, f: np.ndarray, amplitude: np.ndarray, d_min: float) -> np.ndarray:
    problem = PhaseProblem.of(crystal.cell, hkl, amplitude, d_min=d_min)
    half = torch.zeros(problem.amplitude.shape, dtype=torch.complex64)
    for sign in (1, -1):
        index = sign * hkl
        stored = index[:, 2] >= 0
        values = torch.as_tensor(f if sign == 1 else f.conj()).to(torch.complex64)
        half[tuple((index[stored] % np.array(problem.shape)).T)] = values[torch.as_tensor(stored)]
    return density_of(problem.amplitude * unit(half), problem.shape).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cctbx", required=True, help="a Python that has cctbx-base")
    parser.add_argument("--d-min", type=float, nargs="+", default=[0.9, 1.5])
    parser.add_argument("--max", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for d_min in args.d_min:
        problems = []
        for crystal in (c.with_default_u_iso(DEFAULT_U_ISO) for c in aflow()):
            hkl = half_sphere(crystal.cell, d_min)
            f = structure_factors(crystal, hkl)
            if not trivial(scored(crystal, hkl, np.ones_like(f), f, d_min)[0]):
                problems.append((crystal, hkl, f))
        problems = [problems[i] for i in np.linspace(0, len(problems) - 1, args.max).round().astype(int)]
        handed = [{"cell": c.cell, "hkl": h, "amplitude": abs(f), "seed": 0} for c, h, f in problems]
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "problems.pickle", Path(folder) / "results.pickle"
            source.write_bytes(pickle.dumps(handed))
            script = Path(__file__).with_name("cctbx_charge_flipping.py")
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            command = [args.cctbx, str(script), str(source), str(target), str(args.seconds)]
            subprocess.run(command, check=True, env=environment)
            theirs = pickle.loads(target.read_bytes())  # noqa: S301 - written a moment ago by our own script
        for (crystal, hkl, f), other in zip(problems, theirs, strict=True):
            ours = solve_map(crystal.cell, hkl, abs(f), method="charge_flipping", time_limit=args.seconds)
            cc, right = scored(crystal, hkl, np.exp(1j * np.radians(ours.phases)), f, d_min)
            row = {"id": crystal.id, "d_min": d_min, "map_cc": cc, "solved": right, "seconds": ours.seconds}
            if "error" in other:
                row |= {"cctbx": other["error"], "cctbx_solved": False}
            else:
                place = {tuple(h): i for i, h in enumerate(hkl.tolist())}
                g = np.ones_like(f)
                for h, value in zip(other["hkl"].tolist(), other["f"], strict=True):
                    if tuple(h) in place:
                        g[place[tuple(h)]] = value
                    else:
                        g[place[tuple(-x for x in h)]] = np.conj(value)
                cc, right = scored(crystal, hkl, g, f, d_min)
                row |= {"cctbx_map_cc": cc, "cctbx_solved": right, "cctbx_seconds": other["seconds"]}
            rows.append(row)
        mine = [r for r in rows if r["d_min"] == d_min]
        errors = sum("cctbx" in r for r in mine)
        their_seconds = np.nanmedian([r.get("cctbx_seconds", np.nan) for r in mine])
        print(
            f"{d_min:g} Å: {len(mine)} crystals; solved by phaseray {sum(r['solved'] for r in mine)} "
            f"(median {np.median([r['seconds'] for r in mine]):.1f} s), "
            f"by cctbx {sum(r['cctbx_solved'] for r in mine)} (median {their_seconds:.1f} s; "
            f"{errors} ended in errors)"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
