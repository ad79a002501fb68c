"""cctbx's charge flipping on problems that phasing.py hands over: seconds and phases.

Run by phasing.py in a process of its own, whose environment has cctbx-base: cctbx crashes where NumPy was
imported before it.
"""

from __future__ import annotations

from cctbx import crystal, miller  # first, see above
from cctbx.array_family import flex
from smtbx.ab_initio import charge_flipping

# isort: split
import pickle
import random
import sys
import time

import numpy as np

POLISHING = 25


class Whole(int):
    """Stays whole when cctbx allows itself half as many iterations more: else its second start ends in an error."""

    def __mul__(self, other: float) -> Whole:
        return Whole(int(self) * other)


def solve(found: dict, seconds: float) -> dict:
    """Its solving iterator with the defaults of smtbx: δ = 1.1 σ, weak phases shifted, restarts; then its polishing."""
    random.seed(found["seed"])
    flex.set_random_seed(found["seed"])
    symmetry = crystal.symmetry(unit_cell=tuple(float(x) for x in found["cell"]), space_group_symbol="P 1")
    indices = flex.miller_index([tuple(int(i) for i in h) for h in found["hkl"]])
    data = flex.double([float(a) for a in found["amplitude"]])
    amplitudes = miller.set(symmetry, indices, anomalous_flag=False).array(
        data=data, sigmas=flex.double(len(data), 1.0)
    )
    amplitudes.set_observation_type_xray_amplitude()
    began = time.perf_counter()
    flipping = charge_flipping.weak_reflection_improved_iterator(delta=None)
    run = charge_flipping.solving_iterator(
        flipping, amplitudes, yield_during_delta_guessing=True, yield_solving_interval=1,
        max_solving_iterations=Whole(charge_flipping.solving_iterator.max_solving_iterations),
    )  # fmt: skip
    for _ in run:
        if run.had_phase_transition or time.perf_counter() - began > seconds:
            break
    polishing = charge_flipping.low_density_elimination_iterator(constant_rho_c=flipping.delta)
    polishing.start(f_obs=flipping.f_obs, phases=flipping.f_calc, f_000=0)
    for _ in range(POLISHING):
        next(polishing)
    values = polishing.f_calc.common_set(amplitudes)
    return {
        "seconds": time.perf_counter() - began,
        "converged": bool(run.had_phase_transition),
        "hkl": np.array(list(values.indices())),
        "f": np.array([complex(v) for v in values.data()]),
    }


def main(source: str, target: str, seconds: str) -> None:
    with open(source, "rb") as file:
        problems = pickle.load(file)  # noqa: S301 - written a moment ago by phasing.py
    results = []
    for found in problems:
        try:
            results.append(solve(found, float(seconds)))
        except Exception as error:
            results.append({"error": repr(error)})
        with open(target, "wb") as file:
            pickle.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
