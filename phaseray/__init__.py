"""phaseray: recover the phases that X-ray diffraction loses."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from phaseray.crystal import Crystal, Rejection
    from phaseray.diffraction.maps import density
    from phaseray.diffraction.structure_factors import structure_factors
    from phaseray.evaluation.metrics import map_cc
    from phaseray.phasing.solve import Solution, solve_map
    from phaseray.sources.cif import read_cif

__all__ = ["Crystal", "Rejection", "Solution", "density", "map_cc", "read_cif", "solve_map", "structure_factors"]

# Loaded on first use, so that `phaseray --help` and `import phaseray` stay fast.
_HOME = {
    "Crystal": "phaseray.crystal",
    "Rejection": "phaseray.crystal",
    "Solution": "phaseray.phasing.solve",
    "density": "phaseray.diffraction.maps",
    "map_cc": "phaseray.evaluation.metrics",
    "read_cif": "phaseray.sources.cif",
    "solve_map": "phaseray.phasing.solve",
    "structure_factors": "phaseray.diffraction.structure_factors",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'phaseray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
