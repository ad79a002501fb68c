"""Artificial crystals: reproducible, physical, and never an endless loop."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phaseray.config import SyntheticSource
from phaseray.crystal import Crystal
from phaseray.sources.synthetic import synthetic_crystal

DEFAULT = SyntheticSource()
SMALL = SyntheticSource(edge=(2.0, 4.0), angle=(50, 119), volume_per_atom=(2, 5), min_distance=(1.3, 2.2))
SKEWED = SyntheticSource(edge=(3.0, 9.0), angle=(35, 119), orthogonal_fraction=0, min_distance=(1.5, 3))
NEEDLES = SyntheticSource(edge=(1.6, 16.0), angle=(40, 119), max_atoms=60, min_distance=(1.5, 1.5))


def shortest_distance(crystal: Crystal, images: int = 3) -> float:
    """Brute force: every pair, and every atom with its own images, over (2·images + 1)³ cells."""
    steps = np.array(list(itertools.product(range(-images, images + 1), repeat=3)))
    delta = crystal.positions[:, None, None] - crystal.positions[None, :, None] + steps
    lengths = np.linalg.norm(delta @ crystal.orthogonalization.T, axis=-1)
    itself = (np.arange(crystal.n_atoms)[:, None] == np.arange(crystal.n_atoms))[:, :, None] & (steps == 0).all(1)
    return float(lengths[~itself].min())


def shortest_translation(crystal: Crystal) -> float:
    steps = np.array([s for s in itertools.product(range(-4, 5), repeat=3) if any(s)])
    return float(np.linalg.norm(steps @ crystal.orthogonalization.T, axis=1).min())


def as_bytes(crystal: Crystal) -> bytes:
    arrays = crystal.cell, crystal.numbers, crystal.positions, crystal.occupancy, crystal.u_iso
    return b"".join(array.tobytes() for array in arrays) + f"{crystal.id}{crystal.space_group}".encode()


@pytest.mark.parametrize("config", [DEFAULT, SMALL, SKEWED, NEEDLES], ids=["default", "small", "skewed", "needles"])
def test_least_distance_is_kept_through_every_image(config: SyntheticSource):
    for index in range(60):
        crystal = synthetic_crystal(config, 7, index)
        allowed = min(config.min_distance[0], shortest_translation(crystal))
        assert shortest_distance(crystal) >= allowed - 1e-9, crystal


def test_least_distance_is_the_one_drawn_and_not_only_the_lowest():
    config = SyntheticSource(edge=(4, 6), min_distance=(2.1, 2.1), volume_per_atom=(5, 5))
    distances = [shortest_distance(synthetic_crystal(config, 0, i), 2) for i in range(50)]
    # asked for far more atoms than fit, the closest pairs come near the limit and never under it
    assert min(distances) >= 2.1 - 1e-9
    assert np.median(distances) < 2.3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**64),
    index=st.integers(0, 2**40),
    low=st.floats(0.5, 8),
    high=st.floats(0, 6),
    distance=st.floats(0, 6),
    volume_per_atom=st.floats(0.5, 400),
    angle=st.tuples(st.floats(20, 119), st.floats(0, 41)),
    centrosymmetric=st.sampled_from([0.0, 1.0]),
    max_atoms=st.integers(1, 40),
)
def test_any_config_gives_a_crystal(
    seed, index, low, high, distance, volume_per_atom, angle, centrosymmetric, max_atoms
):
    config = SyntheticSource(
        edge=(low, low + high),
        angle=(angle[0], angle[0] + angle[1]),
        volume_per_atom=(volume_per_atom, volume_per_atom),
        min_distance=(distance, distance),
        centrosymmetric_fraction=centrosymmetric,
        max_atoms=max_atoms,
    )
    crystal = synthetic_crystal(config, seed, index)
    assert 1 <= crystal.n_atoms <= max_atoms
    assert low <= crystal.cell[:3].min()
    assert crystal.cell[:3].max() <= low + high
    assert crystal.volume > 0


def test_the_same_seed_and_index_give_the_same_bytes_whoever_makes_them():
    make = partial(synthetic_crystal, DEFAULT, 3)
    forwards = [as_bytes(make(i)) for i in range(20)]
    backwards = [as_bytes(make(i)) for i in reversed(range(20))][::-1]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        elsewhere = [as_bytes(crystal) for crystal in pool.map(make, range(20))]
    assert forwards == backwards
    assert forwards == elsewhere


def test_crystals_of_other_seeds_and_indices_differ():
    made = [as_bytes(synthetic_crystal(DEFAULT, seed, index)) for seed in range(4) for index in range(25)]
    assert len(set(made)) == 100


def test_ranges_of_the_config_are_kept():
    crystals = [synthetic_crystal(DEFAULT, 0, i) for i in range(300)]
    cells = np.array([c.cell for c in crystals])
    assert 4 <= cells[:, :3].min() < 4.2
    assert 9.8 < cells[:, :3].max() <= 10
    assert 80 <= cells[:, 3:].min() < 82
    assert 108 < cells[:, 3:].max() <= 110
    assert np.mean((cells[:, 3:] == 90).all(1)) == pytest.approx(0.4, abs=0.09)
    assert np.mean([c.space_group_number == 2 for c in crystals]) == pytest.approx(0.5, abs=0.09)
    u_iso = np.concatenate([c.u_iso for c in crystals])
    assert 0.005 <= u_iso.min() < 0.006
    assert 0.039 < u_iso.max() <= 0.04
    assert {len(c.composition) for c in crystals} == {1, 2, 3, 4}
    assert {element for c in crystals for element in c.composition} == set(DEFAULT.elements)
    volume_per_atom = np.array([c.volume / c.n_atoms for c in crystals])
    assert np.median(volume_per_atom) == pytest.approx(16.5, abs=1.5)


def test_centrosymmetric_crystals_are_and_the_others_are_not():
    on_centre = []
    for index in range(200):
        crystal = synthetic_crystal(DEFAULT, 1, index)
        delta = crystal.positions[:, None] + crystal.positions
        inverse = np.abs(delta - np.rint(delta)).max(-1) < 1e-12
        if crystal.space_group == "P -1":
            assert (inverse.sum(1) == 1).all()
            mate = inverse.argmax(1)
            assert (crystal.numbers[mate] == crystal.numbers).all()
            assert (crystal.u_iso[mate] == crystal.u_iso).all()
            on_centre.append(inverse.diagonal().any())
        else:
            assert crystal.space_group == "P 1"
            assert not inverse.any()
    # heavy atoms on inversion centres are the trivial case of phasing: neither all nor none
    assert 0.2 < np.mean(on_centre) < 0.6


def test_a_density_out_of_reach_gives_fewer_atoms_and_soon():
    config = SyntheticSource(edge=(6, 6), volume_per_atom=(0.5, 0.5), max_atoms=10_000, min_distance=(3, 3))
    start = time.perf_counter()
    crystal = synthetic_crystal(config, 0, 0)
    assert 1 <= crystal.n_atoms <= 30
    assert shortest_distance(crystal, 1) >= 3
    assert time.perf_counter() - start < 5


def test_a_cell_shorter_than_the_least_distance_holds_one_atom():
    config = SyntheticSource(edge=(2, 2), min_distance=(5, 5), volume_per_atom=(1, 1), orthogonal_fraction=1)
    for index in range(10):
        assert synthetic_crystal(config, 0, index).n_atoms <= 8
        assert shortest_distance(synthetic_crystal(config, 0, index)) == pytest.approx(2)


def test_id_names_seed_and_index():
    assert synthetic_crystal(DEFAULT, 5, 17).id == "synthetic/5/17"


def test_two_hundred_crystals_take_under_two_seconds():
    """The promise is 500 a second on an idle core; a shared one gets some slack."""
    synthetic_crystal(DEFAULT, 0, 0)
    start = time.process_time()
    for index in range(200):
        synthetic_crystal(DEFAULT, 0, index)
    assert time.process_time() - start < 2
