"""Phasing: from the amplitudes of a crystal to its density; zero phases, charge flipping, RRR, a network; scores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseray.phasing.problem import PhaseProblem, Starts
    from phaseray.phasing.solve import Solution, solve_map

__all__ = ["PhaseProblem", "Solution", "Starts", "solve_map"]

# Loaded on first use: torch is slow to import.
_HOME = {"PhaseProblem": "problem", "Solution": "solve", "Starts": "problem", "solve_map": "solve"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"phaseray.phasing.{_HOME[name]}"), name)
    raise AttributeError(f"module 'phaseray.phasing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
