"""Completion: maps with wrong phases lead to the atoms, wrong maps to none that explain; groups and their halves."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.evaluation.metrics import map_cc
from phaseray.phasing import completion
from phaseray.phasing.completion import Completion, Effort
from phaseray.phasing.problem import PhaseProblem, unit
from phaseray.sources import prototypes

D_MIN = 1.5


def problem_and_truth(name: str) -> tuple[PhaseProblem, torch.Tensor]:
    index = next(i for i, known in enumerate(prototypes.names()) if name in known)
    crystal = prototypes.prototype(index).with_default_u_iso(0.02)
    problem = PhaseProblem.from_crystal(crystal, D_MIN)
    return problem, unit(torch.as_tensor(structure_factor_grid(crystal, problem.shape, D_MIN * (1 - 1e-6))))


def quality(problem: PhaseProblem, truth: torch.Tensor, phases: torch.Tensor) -> float:
    return map_cc(problem.density(phases).numpy(), problem.density(truth).numpy())


def test_phases_with_errors_lead_to_the_atoms_and_theirs_have_none():
    problem, truth = problem_and_truth("A2B_hP9_152_c_a")
    rough = unit(truth + 0.6 * problem.random_phases(2, 0))
    assert quality(problem, truth, rough[0]) < 0.9
    work = Completion(problem)
    found = work.complete(rough, np.array([0.2, 0.7]))
    assert found.parents.tolist()[0] == 1
    assert any(map(work.explains, work.models))
    best = int(np.argmin(found.features["criterion"]))
    model = work.models[best]
    assert (model.atoms, len(model)) == (9, 2)
    assert max(model.electrons) / min(model.electrons) == pytest.approx(14 / 8, rel=0.25)
    assert quality(problem, truth, found.phases[best]) > 0.98
    assert found.features["criterion"][best] == work.criterion(model)
    # quartz: Si-O is 1.6 Å, and nine atoms take 113 Å³
    assert np.exp(found.features["shortest"][best]) == pytest.approx(1.61, abs=0.05)
    assert found.features["space"][best] == pytest.approx(abs(np.log(problem.volume / 9 / 17)))
    assert found.features["orbits"][best] == pytest.approx(np.log(2))


def test_a_structure_laid_on_its_inverse_is_told_apart():
    """Chalcopyrite: the metals are centric, so that half of the sulfur in each of two places fits their phases too."""
    problem, truth = problem_and_truth("ABC2_tI16_122_a_b_d")
    both = unit(torch.complex((problem.amplitude * truth).real, torch.zeros_like(problem.amplitude)))
    assert quality(problem, truth, both) < 0.95
    work = Completion(problem)
    found = work.complete(both[None], np.array([0.9]))
    assert quality(problem, truth, found.phases[0]) > 0.97
    assert work.models[0].atoms == 8


def test_wrong_maps_lead_to_nothing_that_explains():
    problem, _ = problem_and_truth("A2B_hP9_152_c_a")
    work = Completion(problem)
    found = work.complete(problem.random_phases(2, 1), np.array([0.5, 0.5]))
    assert not any(map(work.explains, work.models))
    assert found is None or (found.features["criterion"] > -5).all()


def test_maps_are_tried_once_and_the_same_way():
    problem, truth = problem_and_truth("AB2_cP12_205_a_c")
    rough = unit(truth + 0.4 * problem.random_phases(1, 0))
    first, second = Completion(problem), Completion(problem)
    found = first.complete(rough, np.array([0.9]))
    again = second.complete(rough, np.array([0.9]))
    assert found.phases.numpy().tobytes() == again.phases.numpy().tobytes()
    assert first.complete(rough, np.array([0.9])) is None
    assert len(first.models) == 1


def test_neither_time_nor_effort_is_exceeded(monkeypatch):
    problem, truth = problem_and_truth("A2B_hP9_152_c_a")
    rough = unit(truth + 0.6 * problem.random_phases(1, 0))
    assert Completion(problem).complete(rough, np.array([0.9]), until=time.perf_counter()) is None
    effort = Effort(10.0)
    assert not effort.gone
    monkeypatch.setattr(completion, "EFFORT", 1.0)
    work = Completion(problem)
    work.complete(rough, np.array([0.9]))
    assert not any(map(work.explains, work.models))
