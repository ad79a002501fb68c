"""The AFLOW library of crystallographic prototypes (Mehl et al. 2017), as it comes inside pymatgen."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from phaseray.crystal import Crystal


def count() -> int:
    """How many prototypes there are: 288 in the pymatgen of 2026."""
    return len(_prototypes())


def names() -> tuple[str, ...]:
    """The ids, in the order of the library: "aflow/AB_oP8_62_c_c-GeS".

    Nine AFLOW labels stand for more than one crystal, so the formula is part of every id.
    """
    return tuple(crystal.id for crystal in _prototypes())


def prototype(index: int) -> Crystal:
    """Prototype `index`, from 0 to `count()` - 1.

    The cell is the primitive one of AFLOW, so the space group of its label is known by number alone.
    No displacement is known (u_iso 0).
    """
    if not 0 <= index < count():
        raise ValueError(f"there is no prototype {index}: they are numbered from 0 to {count() - 1}")
    return _prototypes()[index]


@cache
def _prototypes() -> tuple[Crystal, ...]:
    crystals = [_crystal(**record) for record in _records()]
    again = {id for id, n in Counter(c.id for c in crystals).items() if n > 1}
    assert not again, again
    return tuple(crystals)


def _records() -> list[dict[str, Any]]:
    # Importing pymatgen.analysis.prototypes takes four seconds in each process; its data file, 30 ms.
    module = find_spec("pymatgen.analysis.prototypes")
    if module is not None and module.origin is not None:
        path = Path(module.origin).parent / "aflow_prototypes.json.gz"
        if path.is_file():
            records: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))
            return records
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    return [{"snl": entry["snl"].as_dict(), "tags": entry["tags"]} for entry in AFLOW_PROTOTYPE_LIBRARY]


def _crystal(snl: dict[str, Any], tags: dict[str, str]) -> Crystal:
    lattice, label = snl["lattice"], tags["aflow"]
    # AFLOW label: stoichiometry_Pearson symbol_space group number_Wyckoff letters
    rows = [
        (gemmi.Element(species["element"]).atomic_number, species["occu"], site["abc"])
        for site in snl["sites"]
        for species in site["species"]
    ]
    numbers, occupancy, positions = zip(*rows, strict=True)
    known_as = [tags[key] for key in ("mineral", "strukturbericht") if tags.get(key) not in (None, "", "None")]
    cell = np.array([lattice[key] for key in ("a", "b", "c", "alpha", "beta", "gamma")])
    crystal = Crystal(
        cell=cell,
        numbers=np.array(numbers),
        # left-handed axes are turned round, as Crystal.from_pymatgen does
        positions=np.array(positions) * np.sign(np.linalg.det(lattice["matrix"])),
        occupancy=np.array(occupancy),
        # no symbol: the cell is the primitive one, in which the operators of the standard setting mostly do not hold
        space_group_number=int(label.split("_")[2]),
        source=", ".join(["AFLOW prototype " + label, *known_as]),
    )
    return replace(crystal, id=f"aflow/{label}-{crystal.reduced_formula.replace(' ', '')}")
