"""Artificial molecular crystals: molecules stay whole and apart, the operators hold, the same bytes."""

from __future__ import annotations

import itertools

import gemmi
import numpy as np
import pytest

from phaseray.config import MolecularSource
from phaseray.sources.contacts import contact_distances, usual_volume

pytest.importorskip("rdkit")
from phaseray.sources.molecular import molecular_crystal
from phaseray.sources.space_groups import space_group

DEFAULT = MolecularSource(volume=(100, 700))


@pytest.fixture(scope="module")
def crystals():
    return [molecular_crystal(DEFAULT, 1, i) for i in range(24)]


def test_the_operators_hold(crystals):
    for crystal in crystals:
        group = space_group(crystal.space_group_number, crystal.space_group is None)
        metric = crystal.orthogonalization.T @ crystal.orthogonalization
        for r, t in zip(group.rotations, group.translations, strict=True):
            assert np.allclose(r.T @ metric @ r, metric, atol=1e-6 * metric.max())
            delta = (crystal.positions @ r.T + t)[:, None] - crystal.positions
            apart = np.linalg.norm((delta - np.rint(delta)) @ crystal.orthogonalization.T, axis=-1)
            apart[crystal.numbers[:, None] != crystal.numbers] = np.inf
            assert apart.min(1).max() < 1e-6


def test_bonds_are_bonds_and_no_atoms_meet(crystals):
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    for crystal in crystals:
        delta = crystal.positions[:, None, None] - crystal.positions[None, :, None]
        lengths = np.linalg.norm((delta - np.rint(delta) + steps) @ crystal.orthogonalization.T, axis=-1)
        nearest = np.where(lengths < 1e-6, np.inf, lengths).min((1, 2))
        hydrogen = crystal.numbers == 1
        assert nearest.min() > 0.8
        # every hydrogen has its atom
        assert (nearest[hydrogen] < 1.45).all()
        assert (lengths < 1e-6).sum() == crystal.n_atoms


def test_the_density_is_that_of_molecular_crystals(crystals):
    ratio = [c.volume / usual_volume(c.numbers) for c in crystals]
    assert min(ratio) > 0.99
    assert max(ratio) < 1.4
    assert np.median([c.volume / (c.numbers > 1).sum() for c in crystals]) == pytest.approx(18.5, abs=3)


def test_usual_volumes_are_near_those_measured():
    # Å³ a molecule: benzene 123 at 218 K, naphthalene 180, urea 73.6 at 12 K (COD)
    for formula, measured in ({6: 6, 1: 6}, 123), ({6: 10, 1: 8}, 180), ({6: 1, 8: 1, 7: 2, 1: 4}, 73.6):
        numbers = np.repeat(list(formula), list(formula.values()))
        assert usual_volume(numbers) == pytest.approx(measured, rel=0.08)


def test_hydrogen_bonds_are_short_and_van_der_waals_contacts_are_not():
    numbers, polar = np.array([1, 1, 8, 6]), np.array([True, False, False, False])
    contact = contact_distances(numbers, polar)
    assert contact[0, 2] == contact[2, 0] == pytest.approx(1.9, abs=0.05)
    radius = [gemmi.Element(z).vdw_r for z in (1, 8, 6)]
    assert contact[1, 2] == pytest.approx(0.95 * (radius[0] + radius[1]))
    assert contact[3, 3] == pytest.approx(0.95 * 2 * radius[2])
    assert (contact == contact.T).all()


def test_the_same_seed_and_index_give_the_same_bytes(crystals):
    for i in (17, 3):
        again = molecular_crystal(DEFAULT, 1, i)
        assert again.positions.tobytes() == crystals[i].positions.tobytes()
        assert again.u_iso.tobytes() == crystals[i].u_iso.tobytes()
    assert len({c.positions.tobytes() for c in crystals}) == len(crystals)


def test_hydrogen_moves_more_than_what_it_is_on(crystals):
    low, high = DEFAULT.u_iso
    for crystal in crystals:
        assert low <= crystal.u_iso.min() <= crystal.u_iso.max() <= high
    hydrogen = np.concatenate([c.u_iso[c.numbers == 1] for c in crystals])
    others = np.concatenate([c.u_iso[c.numbers != 1] for c in crystals])
    assert hydrogen.mean() > 1.05 * others.mean()


def test_what_cannot_be_packed_is_said():
    with pytest.raises(ValueError, match="widen"):
        molecular_crystal(MolecularSource(volume=(20, 21)), 0, 0)
