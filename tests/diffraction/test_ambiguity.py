"""What |F| leaves open: origins and the hand."""

import gemmi
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose

from phaseray import Crystal, backend, density
from phaseray.diffraction import ambiguity, maps
from phaseray.diffraction.structure_factors import structure_factor_grid
from tests.strategies import CELLS, crystals, moved, random_crystal, shifts

SHAPE = (16, 18, 20)


@given(crystals, shifts)
@settings(max_examples=20, deadline=None)
def test_moving_the_origin_moves_the_crystal(crystal: Crystal, shift: tuple[float, float, float]) -> None:
    other = moved(crystal, shift)
    f = ambiguity.move_origin(structure_factor_grid(crystal, SHAPE, 1.2), shift)
    assert_allclose(f, structure_factor_grid(other, SHAPE, 1.2), atol=2e-5 * crystal.n_electrons)


def test_other_hand_is_the_inverted_crystal(xp) -> None:
    crystal = random_crystal(CELLS["triclinic"], seed=1)
    f = xp.asarray(structure_factor_grid(crystal, SHAPE, 1.2))
    mirror = maps.density_from_half_grid(ambiguity.other_hand(f), SHAPE, crystal.volume)
    rho = xp.asarray(density(crystal, SHAPE, 1.2))
    assert_allclose(backend.to_numpy(mirror), backend.to_numpy(ambiguity.inverted(rho)), atol=1e-4)


@pytest.mark.parametrize(
    ("group", "discrete", "polar"),
    [  # numbers of origins modulo lattice and centring: IT A (2016), table 3.5.2.3
        ("P 1", 1, 3), ("P -1", 8, 0), ("P 1 21 1", 4, 1), ("P 1 21/c 1", 8, 0), ("P 21 21 21", 8, 0),
        ("P n a 21", 4, 1), ("C 1 2/c 1", 4, 0), ("P 41 21 2", 4, 0), ("I 41/a m d", 2, 0), ("P 3", 3, 1),
        ("P 31 2 1", 2, 0), ("R -3 m:H", 2, 0), ("P 63/m m c", 2, 0), ("P 6", 1, 1), ("F -4 3 m", 4, 0),
        ("F m -3 m", 2, 0), ("I a -3 d", 1, 0), ("P 2 3", 2, 0),
    ],
)  # fmt: skip
def test_allowed_origins_are_those_of_the_tables(group: str, discrete: int, polar: int) -> None:
    origins, directions = ambiguity.allowed_origins(group)
    centrings = len(gemmi.SpaceGroup(group).operations().cen_ops)
    assert len(directions) == polar
    # centrings along a polar direction are not listed again
    assert len(origins) in {discrete, discrete * centrings}
    assert not origins[0].any()


@pytest.mark.parametrize("group", ["P -1", "P 1 21/c 1", "P 21 21 21", "P 3", "F -4 3 m", "I 41/a m d", "P 1 21 1"])
def test_allowed_shifts_keep_the_symmetry(group: str) -> None:
    """A map of the group, moved by an allowed shift, still has every operator of the group; by another, not."""
    rng = np.random.default_rng(0)
    operators = list(gemmi.SpaceGroup(group).operations())
    sites = rng.random((2, 3))
    positions = np.array([op.apply_to_xyz(list(x)) for x in sites for op in operators])
    hexagonal = group == "P 3"
    cell = CELLS["hexagonal"] if hexagonal else CELLS["cubic"] if "4" in group else CELLS["orthorhombic"]
    crystal = Crystal(cell=cell, numbers=[26] * len(operators) + [8] * len(operators), positions=positions)
    n = 12
    hkl = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)

    def symmetric(shift: np.ndarray) -> bool:
        from phaseray import structure_factors

        moved = Crystal(cell=cell, numbers=crystal.numbers, positions=crystal.positions + shift)
        f = structure_factors(moved, hkl)
        for op in operators:
            rotation, translation = np.array(op.rot) // 24, np.array(op.tran) / 24
            # F(h) = F(hR) exp(2πi h·t)
            other = structure_factors(moved, hkl @ rotation) * np.exp(2j * np.pi * (hkl @ translation))
            if not np.allclose(f, other, atol=1e-6 * moved.n_electrons):
                return False
        return True

    allowed = {tuple(s) for s in ambiguity.allowed_shifts(group, (n, n, n)).tolist()}
    assert all(symmetric(np.array(s) / n) for s in sorted(allowed)[:: max(1, len(allowed) // 12)])
    others = [s for s in rng.integers(0, n, (20, 3)).tolist() if tuple(s) not in allowed]
    assert not any(symmetric(np.array(s) / n) for s in others[:6])


def test_all_shifts_are_allowed_in_p1() -> None:
    assert len(ambiguity.allowed_shifts("P 1", (4, 6, 8))) == 4 * 6 * 8


def test_unknown_group_is_named() -> None:
    with pytest.raises(ValueError, match="P 99"):
        ambiguity.allowed_origins("P 99")
