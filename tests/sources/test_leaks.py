"""No crystal of training shares a formula or a prototype with a test set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from phaseray.crystal import Crystal
from phaseray.sources.leaks import HeldOut, anonymous_formula, leak_keys
from phaseray.sources.prototypes import names, prototype

NACL = Crystal(
    cell=[5.64, 5.64, 5.64, 90, 90, 90],
    numbers=[11] * 4 + [17] * 4,
    positions=[[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0],
               [0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
)  # fmt: skip


def test_keys_of_rock_salt():
    assert leak_keys(NACL) == ["formula Cl Na", "without hydrogen Cl Na", "prototype A B/225"]


def test_other_elements_in_the_same_structure_are_the_same_prototype():
    numbers = np.where(NACL.numbers == 11, 12, 8)
    assert HeldOut.of([NACL]).shared(replace(NACL, numbers=numbers)) == ["prototype A B/225"]


def test_a_cell_written_in_p1_or_larger_is_found_all_the_same():
    doubled = Crystal(
        cell=[11.28, 5.64, 5.64, 90, 90, 90],
        numbers=np.tile(np.where(NACL.numbers == 11, 12, 8), 2),
        positions=np.concatenate([NACL.positions, NACL.positions + np.array([1, 0, 0])]) * np.array([0.5, 1, 1]) + 0.1,
        space_group="P 1",
        space_group_number=1,
    )
    assert HeldOut.of([NACL]).shared(doubled) == ["prototype A B/225"]


def test_hydrogen_may_be_missing_on_either_side():
    def molecule(numbers):
        rng = np.random.default_rng(len(numbers))
        return Crystal(cell=[7, 8, 9, 80, 95, 100], numbers=numbers, positions=rng.random((len(numbers), 3)))

    with_h, without_h = molecule([6, 6, 8, 1, 1, 1, 1]), molecule([6, 6, 8])
    assert HeldOut.of([with_h]).shared(without_h) == ["without hydrogen C2 O"]
    assert HeldOut.of([without_h]).shared(with_h) == ["without hydrogen C2 O"]
    assert HeldOut.of([with_h]).shared(molecule([6, 6, 6, 8, 1, 1])) == []


def test_anonymous_formulas():
    assert anonymous_formula(NACL) == "A B"
    spinel = Crystal(
        cell=[8] * 3 + [90] * 3, numbers=[12] + [13] * 2 + [8] * 4, positions=np.random.default_rng(0).random((7, 3))
    )
    assert anonymous_formula(spinel) == "A B2 C4"


@pytest.mark.parametrize("name", ["AB_cF8_225_a_b-ClNa", "A2BC4_cF56_227_d_a_e-Al2MgO4"])
def test_prototypes_are_known_by_the_number_of_their_label(name):
    crystal = prototype(names().index(f"aflow/{name}"))
    assert f"/{crystal.space_group_number}" in leak_keys(crystal)[-1]
