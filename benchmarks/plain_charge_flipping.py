"""Charge flipping as it is in the papers: without the symmetry that its maps turn out to have put in.

    python benchmarks/plain_charge_flipping.py [--d-min 1.5 2.0] [--max N] [--json out.json]

The AFLOW prototypes, the starts, the score, the seconds and what counts as solved are those of
`phaseray benchmark-phasing --set aflow --methods charge_flipping`, beside which its figures belong.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from phaseray.benchmark_phasing import DEFAULT_U_ISO, aflow, summarised
from phaseray.phasing import solve
from phaseray.phasing.benchmark import Case, Task, run_task
from phaseray.phasing.problem import PhaseProblem, Starts

TIME_LIMIT = 10.0


def _plain() -> None:
    """In a worker: one thread, and starts as charge flipping leaves them."""
    torch.set_num_threads(1)

    def as_they_are(problem: PhaseProblem, found: Starts, method: str) -> Starts:
        return found

    setattr(solve, "averaged", as_they_are)  # noqa: B010 - solve does not export it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-min", type=float, nargs="+", default=[1.5, 2.0])
    parser.add_argument("--max", type=int, help="the first so many")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    task = partial(Task, methods=("charge_flipping",), group="aflow", seed=0, time_limit=TIME_LIMIT)
    crystals = [c.with_default_u_iso(DEFAULT_U_ISO) for c in aflow()[: args.max]]
    tasks = [task(crystal, d_min) for d_min in args.d_min for crystal in crystals]
    cases: list[Case] = []
    with ProcessPoolExecutor(args.workers, get_context("spawn"), _plain) as pool:
        for found in pool.map(run_task, tasks):
            cases += found
    rows = summarised(cases)
    for row in rows:
        print(
            f"{row['d_min']:g} Å: solved {row['solved']} of {row['n']}, {row['solved_nontrivial']} of "
            f"{row['n_nontrivial']} non-trivial; map_cc ≥ 0.8 {row['map_cc_0.8']}; median {row['median_seconds']:.1f} s"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
