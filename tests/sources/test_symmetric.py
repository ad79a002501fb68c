"""Artificial crystals with symmetry: the operators hold, contacts are kept, the same bytes everywhere."""

from __future__ import annotations

import itertools

import gemmi
import numpy as np
import pytest

from phaseray.config import SymmetricSource
from phaseray.crystal import Crystal
from phaseray.sources.space_groups import INORGANIC, crystal_system, space_group
from phaseray.sources.symmetric import symmetric_crystal

DEFAULT = SymmetricSource()


def as_bytes(crystal: Crystal) -> bytes:
    arrays = crystal.cell, crystal.numbers, crystal.positions, crystal.u_iso
    return b"".join(array.tobytes() for array in arrays) + f"{crystal.id}{crystal.space_group}".encode()


def permuted(crystal: Crystal, rotation, translation) -> float:
    """Å: how far, at worst, the image of an atom is from an atom of its own element and displacement."""
    images = crystal.positions @ rotation.T + translation
    delta = images[:, None] - crystal.positions
    apart = np.linalg.norm((delta - np.rint(delta)) @ crystal.orthogonalization.T, axis=-1)
    alike = (crystal.numbers[:, None] == crystal.numbers) & (crystal.u_iso[:, None] == crystal.u_iso)
    return float(np.where(alike, apart, np.inf).min(1).max())


@pytest.mark.parametrize("primitive", [False, True], ids=["standard", "primitive"])
def test_operators_are_a_group_and_keep_the_cells_of_their_system(primitive):
    for number in range(1, 231):
        group = space_group(number, primitive)
        seitz = np.zeros((len(group.rotations), 4, 4))
        seitz[:, :3, :3], seitz[:, :3, 3], seitz[:, 3, 3] = group.rotations, group.translations % 1.0, 1
        code = {tuple(np.rint(24 * s).astype(int).reshape(-1)) for s in seitz}
        assert len(code) == len(seitz)
        for s in seitz[:: max(1, len(seitz) // 6)]:
            products = s @ seitz
            products[:, :3, 3] %= 1.0
            products[:, :3, 3] = np.rint(24 * products[:, :3, 3]) % 24 / 24
            assert {tuple(np.rint(24 * p).astype(int).reshape(-1)) for p in products} == code, number
        point_group = len({tuple(r.reshape(-1)) for r in np.rint(group.rotations).astype(int)})
        if primitive:
            assert point_group == len(group.rotations)
        else:
            assert len(group.rotations) == len(list(gemmi.find_spacegroup_by_number(number).operations()))


def test_the_operators_of_every_space_group_hold():
    for number in range(1, 231):
        config = SymmetricSource(space_groups=(number,))
        for index in (number % 3,):
            crystal = symmetric_crystal(config, 5, index)
            assert crystal.space_group_number == number
            primitive = crystal.space_group is None
            group = space_group(number, primitive)
            if not primitive:
                named = gemmi.SpaceGroup(crystal.space_group)
                assert gemmi.UnitCell(*crystal.cell).is_compatible_with_spacegroup(named)
            metric = crystal.orthogonalization.T @ crystal.orthogonalization
            for r, t in zip(group.rotations[::3], group.translations[::3], strict=True):
                assert np.allclose(r.T @ metric @ r, metric, atol=1e-6 * metric.max())
                assert permuted(crystal, r, t) < 1e-6


def test_spglib_finds_at_least_the_symmetry_drawn():
    spglib = pytest.importorskip("spglib")
    as_drawn = 0
    for index in range(60):
        crystal = symmetric_crystal(DEFAULT, 11, index)
        found = spglib.get_symmetry_dataset(
            (crystal.orthogonalization.T, crystal.positions, crystal.numbers), symprec=1e-4
        )
        drawn = space_group(crystal.space_group_number, crystal.space_group is None)
        assert len(found.rotations) >= len(drawn.rotations)
        as_drawn += found.number == crystal.space_group_number
    assert as_drawn > 25


def test_atoms_keep_apart_and_cells_keep_to_the_config():
    steps = np.array(list(itertools.product(range(-2, 3), repeat=3)))
    for index in range(50):
        crystal = symmetric_crystal(DEFAULT, 2, index)
        delta = crystal.positions[:, None, None] - crystal.positions[None, :, None]
        lengths = np.linalg.norm((delta - np.rint(delta) + steps) @ crystal.orthogonalization.T, axis=-1)
        radii = np.array([gemmi.Element(int(z)).covalent_r for z in crystal.numbers])
        allowed = 0.75 * (radii[:, None] + radii)[..., None]
        assert (lengths >= np.where(lengths < 1e-6, 0, allowed)).all(), crystal.id
        assert (lengths.min((1, 2)) < 1e-6).all()
        assert (lengths < 1e-6).sum() == crystal.n_atoms
        assert DEFAULT.volume[0] <= crystal.volume <= DEFAULT.volume[1]
        assert DEFAULT.edge[0] <= crystal.cell[:3].min()
        assert crystal.cell[:3].max() <= DEFAULT.edge[1]
        assert DEFAULT.min_atoms <= crystal.n_atoms <= DEFAULT.max_atoms


def test_the_same_seed_and_index_give_the_same_bytes_in_any_order():
    forwards = [as_bytes(symmetric_crystal(DEFAULT, 3, i)) for i in range(15)]
    assert forwards == [as_bytes(symmetric_crystal(DEFAULT, 3, i)) for i in reversed(range(15))][::-1]
    assert len(set(forwards)) == 15
    assert forwards != [as_bytes(symmetric_crystal(DEFAULT, 4, i)) for i in range(15)]


def test_kinds_of_crystals_are_mixed():
    crystals = [symmetric_crystal(DEFAULT, 6, i) for i in range(90)]
    systems = {crystal_system(c.space_group_number) for c in crystals}
    assert len(systems) == 7
    common = np.mean([INORGANIC.get(c.space_group_number, 0) >= 3 for c in crystals])
    assert 0.1 < common < 0.6
    assert 0.1 < np.mean([c.space_group is None for c in crystals]) < 0.4
    assert len({tuple(c.composition) for c in crystals}) > 60
    assert {len(c.composition) for c in crystals} >= {1, 2, 3, 4}


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="widen"):
        symmetric_crystal(SymmetricSource(volume=(60, 61), min_atoms=150), 0, 0)
    with pytest.raises(ValueError, match="from low to high"):
        SymmetricSource(volume=(100, 50))
    with pytest.raises(ValueError, match="less than or equal to 230"):
        SymmetricSource(space_groups=(231,))
