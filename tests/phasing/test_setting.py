"""Maps that were moved away from their origin come back to it, in the hand that the space group names."""

import gemmi
import numpy as np
import pytest
import torch

from phaseray.crystal import Crystal
from phaseray.diffraction.ambiguity import move_origin
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.phasing.problem import PhaseProblem, unit
from phaseray.phasing.setting import in_found_space_group, in_space_group, settings_of, with_inversion_at_origin

CELLS = {
    "P -1": (6.1, 7.3, 8.2, 85.0, 97.0, 102.0),
    "P 1 21 1": (6.1, 7.3, 8.2, 90.0, 104.0, 90.0),
    "P 1 21/n 1": (6.1, 7.3, 8.2, 90.0, 104.0, 90.0),
    "C 1 2/c 1": (11.2, 6.3, 8.2, 90.0, 104.0, 90.0),
    "P 21 21 21": (6.1, 7.3, 8.2, 90.0, 90.0, 90.0),
    "P n a 21": (6.1, 7.3, 8.2, 90.0, 90.0, 90.0),
    "P 41 21 2": (6.4, 6.4, 9.1, 90.0, 90.0, 90.0),
    "P 43 21 2": (6.4, 6.4, 9.1, 90.0, 90.0, 90.0),
    "R -3 :H": (8.1, 8.1, 9.3, 90.0, 90.0, 120.0),
    "F d -3 m:2": (10.4, 10.4, 10.4, 90.0, 90.0, 90.0),
}


def made(name: str, seed: int = 1) -> Crystal:
    """A few atoms in general positions of a group."""
    rng = np.random.default_rng(seed)
    operations = list(gemmi.SpaceGroup(name).operations())
    own, numbers = rng.random((3, 3)), [34, 16, 8]
    every = [op.apply_to_xyz(x.tolist()) for x in own for op in operations]
    return Crystal(
        cell=CELLS[name],
        numbers=np.repeat(numbers, len(operations)),
        positions=every,
        u_iso=np.full(3 * len(operations), 0.02),
    )


def moved(crystal: Crystal, shift, inverted: bool, d_min: float = 1.3):
    problem = PhaseProblem.from_crystal(crystal, d_min)
    f = torch.as_tensor(structure_factor_grid(crystal, problem.shape, problem.d_min * (1 - 1e-6))).clone()
    f[0, 0, 0] = 0
    elsewhere = move_origin(f.conj().resolve_conj() if inverted else f, shift)
    return problem, torch.where(problem.measured, unit(elsewhere), torch.ones_like(elsewhere))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("inverted", [False, True])
def test_phases_obey_the_operations_of_the_group_again(name, inverted):
    problem, phases = moved(made(name), (0.123, 0.456, 0.789), inverted)
    placed = in_space_group(problem, phases, gemmi.SpaceGroup(name))
    assert placed.correlation > 0.999
    # F(h) = exp(2πi h·t) F(hR): the law itself, by gemmi's operators
    strong = problem.hkl[np.argsort(-abs(problem.amplitude.numpy()[tuple((_half(problem.hkl) % problem.shape).T)]))][
        :40
    ]
    phi = dict(zip(map(tuple, problem.hkl.tolist()), problem.phases_of_hkl(placed.phases), strict=True))
    for op in gemmi.SpaceGroup(name).operations():
        for h in strong.tolist():
            image = tuple(op.apply_to_hkl(h))
            known = phi.get(image, -phi.get(tuple(-i for i in image), np.nan))
            off = phi[tuple(h)] - known - 360 * float(np.dot(h, op.tran)) / op.DEN
            assert abs((off + 180) % 360 - 180) < 1.0, (op.triplet(), h)


def _half(hkl):
    return np.where(hkl[:, 2:] < 0, -hkl, hkl)


@pytest.mark.parametrize("name", ["P 41 21 2", "P 43 21 2"])
def test_of_a_pair_of_hands_the_one_named_is_taken(name):
    crystal = made(name)
    other = {"P 41 21 2": "P 43 21 2", "P 43 21 2": "P 41 21 2"}[name]
    problem, phases = moved(crystal, (0.2, 0.3, 0.4), False)
    assert not in_space_group(problem, phases, gemmi.SpaceGroup(name)).inverted
    assert in_space_group(problem, phases, gemmi.SpaceGroup(other)).inverted


@pytest.mark.parametrize("name", [n for n in CELLS if n not in ("P 41 21 2", "P 43 21 2")])
def test_the_space_group_is_found_where_none_is_given(name):
    problem, phases = moved(made(name), (0.123, 0.456, 0.789), True)
    placed = in_found_space_group(problem, phases)
    assert placed.space_group == gemmi.SpaceGroup(name)
    assert placed.correlation > 0.999


def test_amplitudes_without_the_symmetry_of_the_group_are_refused():
    problem, phases = moved(made("P -1"), (0.1, 0.2, 0.3), False)
    with pytest.raises(ValueError, match="do not have the symmetry of P 1 2/m 1"):
        in_space_group(problem, phases, gemmi.SpaceGroup("P 1 2/m 1"))


def test_the_origin_is_put_on_the_inversion_centre():
    assert with_inversion_at_origin(gemmi.SpaceGroup("F d -3 m:1")).xhm() == "F d -3 m:2"
    assert with_inversion_at_origin(gemmi.SpaceGroup("P 1 21/c 1")).xhm() == "P 1 21/c 1"


def test_settings_are_those_of_the_cell_as_it_is():
    from phaseray.phasing.setting import _centrings, _group

    group = gemmi.SpaceGroup("P 1 21/n 1")
    found = settings_of(np.array(CELLS["P 1 21/n 1"]), _group(group), _centrings(group))
    assert "P 1 21/n 1" in [s.xhm() for s in found]
    assert all(s.number == 14 for s in found)
