"""cctbx's structure factors of the crystals that kernel.py hands over: seconds and values, by its two algorithms.

Run by kernel.py in a process of its own: cctbx crashes where NumPy was imported before it.
"""

from __future__ import annotations

from cctbx import adptbx, crystal, miller, xray  # first, see above
from cctbx.array_family import flex

# isort: split
import pickle
import sys
import time

import numpy as np


def structure(found: dict) -> xray.structure:
    symmetry = crystal.symmetry(unit_cell=found["cell"], space_group_symbol="P 1")
    made = xray.structure(crystal_symmetry=symmetry)
    for i, symbol in enumerate(found["symbols"]):
        u = found["u_iso"][i]
        if found["u_aniso"] is not None:
            u = adptbx.u_cif_as_u_star(symmetry.unit_cell(), tuple(found["u_aniso"][i]))
        made.add_scatterer(
            xray.scatterer(
                label=f"{symbol}{i}", scattering_type=symbol, site=tuple(found["positions"][i]), u=u,
                occupancy=found["occupancy"][i],
            )
        )  # fmt: skip
    made.scattering_type_registry(table="it1992")
    return made


def main(source: str, target: str) -> None:
    with open(source, "rb") as file:
        crystals = pickle.load(file)  # noqa: S301 - written a moment ago by kernel.py
    results = []
    for found in crystals:
        made = structure(found)
        wanted = miller.set(made.crystal_symmetry(), flex.miller_index([tuple(h) for h in found["hkl"]]), False)
        result = {}
        for algorithm in ("direct", "fft"):
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                f = wanted.structure_factors_from_scatterers(made, algorithm=algorithm).f_calc()
                seconds.append(time.perf_counter() - began)
            values = np.array([complex(v) for v in f.data()])
            result[algorithm] = (min(seconds), values)
        results.append(result)
    with open(target, "wb") as file:
        pickle.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
