"""The atoms of a solved map in its space group: found, fitted to the amplitudes, and named if the formula is known."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from phaseray.phasing.atom_model import AtomModel, Frame, Reflections
from phaseray.phasing.completion import Effort, completed
from phaseray.phasing.problem import PhaseProblem
from phaseray.phasing.setting import Placed

Floats = NDArray[np.float64]

EFFORT = 3e10
"""Multiplications that the fit is worth: a minute."""
SPACE = 17.0
"""Å³ that an atom has in the mean, hydrogen not counted."""
_SPREAD_OF_SPACE = 0.35  # of its logarithm
_NOISE = 0.3  # of the weakest atom: what would come after it
_PART_OF_UNIT = 2.0  # what half a formula unit costs is as much as electrons falling to a third
_CYCLES = 12


@dataclass(frozen=True, eq=False)
class Structure:
    """The atoms of the asymmetric unit, those with the most electrons first.

    Attributes
    ----------
    positions : (n, 3)
        Fractional, one atom of each orbit: those images that lie together, as in a molecule.
    multiplicity : (n,) int64
        Atoms in the cell.
    share : (n,)
        Of a general position's multiplicity: 1, ½, … on special positions.
    electrons : (n,)
        Of each atom, fitted; up to a factor that all share where no formula was told.
    b : (n,)
        Å², fitted.
    elements : (n,) int64
        Atomic numbers, given out by electrons; 0 where no formula was told.
    units : float or None
        Formula units in the cell, by the number of atoms found.
    scale : float
        What |Fc| of these electrons is multiplied by, to be as the amplitudes.
    r1 : float
        Σ||Fo| - |Fc|| / Σ|Fo| over the unique reflections; without a formula the electrons are free.
    """

    positions: Floats
    multiplicity: NDArray[np.int64]
    share: Floats
    electrons: Floats
    b: Floats
    elements: NDArray[np.int64]
    units: float | None
    scale: float
    r1: float

    def __len__(self) -> int:
        return len(self.elements)


def structure_of(
    problem: PhaseProblem, placed: Placed, formula: Mapping[int, int] | None = None, seconds: float | None = None
) -> Structure | None:
    """The atoms that the map of a placed solution leads to; None where there are none.

    Parameters
    ----------
    formula : atomic number → number of atoms, optional
        Its hydrogen is not looked for. How many units the cell holds is taken from the atoms found.
    seconds : optional
        After which the fit is left as it then is.
    """
    reflections = Reflections.of(problem)
    frame = Frame(reflections, placed.group, placed.centrings)
    values = reflections.values(problem.structure_factors(placed.phases))
    effort = Effort(EFFORT, None if seconds is None else time.perf_counter() + seconds)
    model = completed(frame, reflections.mean(values, frame.group), effort)
    if not len(model):
        return None
    model = model.only(np.argsort(-model.electrons, kind="stable"))
    multiplicity = np.rint(len(frame.rotations) / model.keeping).astype(np.int64)
    heavy = {z: n for z, n in (formula or {}).items() if z > 1}
    # hydrogen is no atom here, nor is a ripple
    n = _number(model.electrons, multiplicity, problem.volume, sum(heavy.values()))
    model, multiplicity = model.only(np.arange(n)), multiplicity[:n]
    elements, units = np.zeros(n, np.int64), None
    if heavy:
        units = float(multiplicity.sum()) / sum(heavy.values())
        elements = _given_out(multiplicity, {z: count * units for z, count in heavy.items()})
        scale = float(model.electrons @ multiplicity) / float(elements @ multiplicity)
        model = replace(model, electrons=elements.astype(np.float64), scale=model.scale * scale, known=True)
    model = model.refined(_CYCLES)
    return Structure(
        positions=_together(frame, model.positions), multiplicity=multiplicity, share=1 / model.keeping,
        electrons=model.electrons, b=model.b, elements=elements, units=units, scale=model.scale,
        r1=_r1(model),
    )  # fmt: skip


def _number(electrons: Floats, multiplicity: NDArray[np.int64], volume: float, in_formula: int) -> int:
    """How many orbits, the strongest, are atoms: where their electrons fall off, about as many as have room.

    And, where a formula is told of so many atoms, about a whole number of it.
    """
    atoms = np.cumsum(multiplicity)
    beyond = np.append(electrons[1:], _NOISE * electrons[-1])
    score = np.log(electrons / np.maximum(beyond, 1e-9)) - (np.log(volume / atoms / SPACE) / _SPREAD_OF_SPACE) ** 2 / 2
    if in_formula:
        units = atoms / in_formula
        score -= np.where(units > 0.9, _PART_OF_UNIT * abs(units - np.rint(units)), 0.0)
    return int(score.argmax()) + 1


def _together(frame: Frame, positions: Floats) -> Floats:
    """(n, 3) of each orbit the image nearest to what is there already, beginning with the strongest; its middle is in
    the cell."""
    every = np.array([frame.images(x) for x in positions])
    chosen = np.array(positions)
    nearest = np.full(len(positions), np.inf)
    there, left = 0, set(range(1, len(positions)))
    while left:
        own = np.array(sorted(left))
        off = every[own] - chosen[there]
        off -= np.rint(off)
        length = np.linalg.norm(off @ frame.reflections.matrix.T, axis=-1)
        image = length.argmin(1)
        here = length[np.arange(len(own)), image]
        closer = here < nearest[own]
        chosen[own[closer]] = chosen[there] + off[np.arange(len(own)), image][closer]
        nearest[own[closer]] = here[closer]
        there = int(own[nearest[own].argmin()])
        left.remove(there)
    whole: Floats = chosen - np.floor(chosen.mean(0))
    return whole


def _given_out(multiplicity: NDArray[np.int64], contents: Mapping[int, float]) -> NDArray[np.int64]:
    """(n,) elements of orbits that have fewer and fewer electrons: each gets as many atoms as the cell holds of it."""
    left = [[z, float(n)] for z, n in sorted(contents.items(), reverse=True)]
    elements = np.full(len(multiplicity), min(contents), np.int64)
    for i, atoms in enumerate(multiplicity):
        # an orbit goes to the next element where this one has room for less than half of it
        while len(left) > 1 and left[0][1] < atoms / 2:
            left.pop(0)
        elements[i] = left[0][0]
        left[0][1] -= atoms
    return elements


def _r1(model: AtomModel) -> float:
    fc = abs(model.contributions().sum(1))
    fo = model.frame.amplitude
    scale = float(fo @ fc / max(float(fc @ fc), 1e-30))
    return float(abs(fo - scale * fc).sum() / fo.sum())
