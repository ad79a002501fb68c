"""The network's iteration: its signs and grids with a network that changes nothing, and the shipped one at work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phaseray import map_cc, solve_map
from phaseray.diffraction.maps import density
from phaseray.diffraction.structure_factors import structure_factor_grid, structure_factors
from phaseray.phasing import network
from phaseray.phasing.atom_model import Reflections
from phaseray.phasing.problem import PhaseProblem, half_grid_of, half_sphere, resampled, unit
from phaseray.phasing.space_groups import AllowedGroups
from phaseray.phasing.symmetry import AmplitudeSymmetry
from phaseray.phasing.weights import load_network, shipped_network
from phaseray.sources import prototypes

D_MIN = 1.5
STIBNITE = "aflow/A3B2_oP20_62_3c_2c-S3Sb2"


@pytest.fixture(scope="module")
def stibnite():
    """20 atoms of Pnma; zero phases do not solve it, and it is in no training set."""
    return prototypes.prototype(prototypes.names().index(STIBNITE)).with_default_u_iso(0.02)


@pytest.fixture(scope="module")
def problem(stibnite):
    return PhaseProblem.from_crystal(stibnite, D_MIN)


def unchanged(maps, told):
    return maps[:, :1]


def test_a_network_that_changes_nothing_leaves_the_phases(problem):
    seen = []
    settings = network.Settings(cycles=3, settling=2)
    found = network.solve_starts(
        problem, 2, seed=4, network=unchanged, settings=settings, watch=lambda cycle, maps: seen.append(maps.clone())
    )
    assert len(seen) == 6
    for maps in seen[1:]:
        torch.testing.assert_close(maps, seen[0], atol=1e-4 * float(seen[0].abs().max()), rtol=0)
    np.testing.assert_allclose(found.features["misfit"], 0, atol=1e-4)
    np.testing.assert_allclose(found.features["steadiness"], 1, atol=1e-4)
    # the phases given back are those of the maps seen: same sign, whatever grid the network worked on
    fine = tuple(seen[0].shape[1:])
    again = problem.on_grid(fine)
    half = torch.fft.rfftn(seen[-1], dim=(1, 2, 3)).conj()
    expected = again.amplitude * half / half.abs().clamp_min(1e-9)
    got = resampled(problem.amplitude * found.phases, problem.shape, fine)
    assert float((got - expected).abs().max()) < 1e-3 * float(problem.amplitude.max())


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(problem):
    settings = network.Settings(cycles=2, settling=1)
    runs = [network.solve_starts(problem, 2, seed, settings=settings).phases for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_missing_reflections_are_filled_in_and_measured_ones_kept(stibnite):
    hkl = half_sphere(stibnite.cell, D_MIN)
    amplitude = abs(structure_factors(stibnite, hkl))
    some = np.arange(len(hkl)) % 10 != 0
    problem = PhaseProblem.of(stibnite.cell, hkl[some], amplitude[some], d_min=D_MIN)
    assert int(problem.missing.sum()) > 0
    shape = problem.shape
    observed = network.Observed.of(
        problem.amplitude[None], problem.measured[None], (problem.measured | problem.missing)[None],
        torch.tensor([D_MIN]), shape,
    )  # fmt: skip
    state = network.random_state(observed, 0)
    blob = torch.rand((1, *shape), generator=torch.Generator().manual_seed(1))
    after = network.put_back(observed, state, network.Cleaned(blob), 0.7).coefficients
    torch.testing.assert_close(after.abs()[0][problem.measured], observed.amplitude[0][problem.measured])
    assert (after.abs()[0][problem.missing] > 0).all()
    assert (after[0][~(problem.measured | problem.missing)] == 0).all()


def test_settling_keeps_the_symmetry_that_is_put_in(stibnite, problem):
    on_grid = network.on_network_grid(problem)
    symmetry = AmplitudeSymmetry(on_grid)
    truth = torch.as_tensor(structure_factor_grid(stibnite, problem.shape, D_MIN * (1 - 1e-6)))
    (group,) = symmetry.groups(resampled(truth, problem.shape, on_grid.shape), (0.99,))
    assert len(group) == 8
    project = symmetry.projection(group)
    noise = problem.random_phases(1, 3)[0]
    begun = torch.stack([unit(truth + 0.3 * problem.amplitude.max() * noise)] * 2)
    found = network.settle(problem, begun, [project, None], settings=network.Settings(settling=4))
    assert found.cycles == 4
    f = resampled(problem.amplitude * found.phases, problem.shape, on_grid.shape)
    tolerance = 2e-3 * float(f.abs().max())
    torch.testing.assert_close(project(f[0]), f[0], atol=tolerance, rtol=0)
    assert float((project(f[1]) - f[1]).abs().max()) > tolerance


def test_starts_may_be_under_a_group_from_the_beginning(problem):
    on_grid = network.on_network_grid(problem)
    allowed = AllowedGroups(on_grid, Reflections.of(problem))
    group = allowed.likely[0]
    assert len(group) == 8
    project = allowed.symmetry.projection(group)
    settings = network.Settings(cycles=3, settling=2)
    seen: list[torch.Tensor] = []

    def watch(cycle: int, maps: torch.Tensor) -> None:
        seen.append(half_grid_of(maps))

    found = network.solve_starts(problem, 2, 0, settings=settings, watch=watch, projections=[None, project])
    assert (len(found), found.cycles, len(seen)) == (2, 5, 6)
    for f in seen:
        tolerance = 2e-3 * float(f[1].abs().max())
        torch.testing.assert_close(project(f[1]), f[1] * on_grid.measured, atol=tolerance, rtol=0)
        assert float((project(f[0]) - f[0] * on_grid.measured).abs().max()) > tolerance
    free = network.solve_starts(problem, 2, 0, settings=settings)
    f, other = (problem.structure_factors(each.phases[0]) for each in (free, found))
    torch.testing.assert_close(other, f, atol=1e-2 * float(f.abs().max()), rtol=0)


@pytest.mark.parametrize("method", ["network", "hybrid"])
def test_the_shipped_network_solves_a_crystal_that_it_never_saw(stibnite, method):
    hkl = half_sphere(stibnite.cell, D_MIN)
    amplitude = abs(structure_factors(stibnite, hkl))
    found = solve_map(stibnite.cell, hkl, amplitude, method=method, d_min=D_MIN, seed=0)
    assert map_cc(found.density, density(stibnite, found.grid, D_MIN)) > 0.75
    assert found.probability > 0.5


def test_another_kind_of_network_is_refused(tmp_path):
    from phaseray.config import TrainConfig, UNetConfig
    from phaseray.models import build_model
    from phaseray.training.checkpoint import ModelMeta, save

    config = TrainConfig(model=UNetConfig(width=4, depth=2))
    meta = ModelMeta(config, (8, 8, 8), 0, 1, "d", 1.0, 0.0, ())
    save(tmp_path, build_model(config.model, (8, 8, 8)), meta)
    with pytest.raises(ValueError, match="not a phasing network"):
        load_network(str(tmp_path))


def test_the_shipped_weights_are_small():
    parameters = sum(p.numel() for p in shipped_network().parameters())
    assert 2 * parameters < 8_000_000  # bytes, as they are stored in bfloat16


def test_the_patterson_function_is_laid_on_the_densest_places(problem):
    shape = (8, 12, 8)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, *shape), generator=generator)
    measured = torch.ones((1, 8, 12, 5), dtype=torch.bool)
    measured[:, 0, 0, 0] = False
    amplitude = network.transform(torch.randn((1, *shape), generator=generator)).abs()
    observed = network.Observed.of(amplitude, measured, measured, torch.tensor([D_MIN]), shape)
    found = network.superposed(observed, x)
    P = network.transform_back(observed.amplitude.to(torch.complex64), shape)[0]
    logarithm = torch.log((P / P[0, 0, 0]).clamp_min(0) + 0.03)
    w = x[0].clamp_min(0).square()
    w = w / w.sum()
    sums, products = torch.zeros(shape), torch.zeros(shape)
    for y in torch.nonzero(w).tolist():
        sums += w[tuple(y)] * P.roll(y, (0, 1, 2))
        products += w[tuple(y)] * logarithm.roll(y, (0, 1, 2))
    torch.testing.assert_close(found[0, 0], sums / sums.square().mean().sqrt(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found[0, 1], products + 2.0, atol=1e-3, rtol=1e-3)
