"""Structure factors against gemmi 0.7.5's direct summation, and against the laws they obey."""

from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose

from phaseray import Crystal, Rejection, backend, structure_factors
from phaseray.config import CifSource
from phaseray.diffraction import separable
from phaseray.diffraction import structure_factors as module
from phaseray.diffraction.atoms import Atoms
from phaseray.diffraction.grid import complete_d_min
from phaseray.diffraction.scattering import Probe
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.sources.files import list_inputs, read_inputs
from phaseray.sources.prototypes import count, prototype
from tests.strategies import CELLS, DISPLACEMENTS, crystals, indices_of, moved, random_crystal, shifts

SHAPE = (24, 28, 32)
ACCURACY = 1e-5  # of F(000), the promise of first light; single precision gives 2e-7


def by_gemmi(crystal: Crystal, hkl: np.ndarray, calculator=gemmi.StructureFactorCalculatorX) -> np.ndarray:
    small = crystal.to_gemmi()
    summation = calculator(small.cell)
    return np.array([summation.calculate_sf_from_small_structure(small, h) for h in hkl.tolist()])


def sphere(crystal: Crystal, shape: tuple[int, int, int], d_min: float) -> np.ndarray:
    """Which points of the half grid are reflections within d_min, the Nyquist planes left out."""
    hkl = indices_of(shape)
    d = gemmi.UnitCell(*crystal.cell).calculate_d_array(hkl)
    return ((d >= d_min * (1 - 1e-9)) | (hkl == 0).all(1)) & (2 * np.abs(hkl) < np.array(shape)).all(1)


@pytest.mark.parametrize("displacement", DISPLACEMENTS)
@pytest.mark.parametrize("system", CELLS)
def test_grid_and_list_agree_with_gemmi(system: str, displacement: str) -> None:
    crystal = random_crystal(CELLS[system], seed=1, displacement=displacement)
    within = sphere(crystal, SHAPE, 1.0)
    hkl = indices_of(SHAPE)[within]
    expected = by_gemmi(crystal, hkl)
    expected[0] = crystal.n_electrons  # the tables' fit misses f(0) = Z
    grid = structure_factor_grid(crystal, SHAPE, 1.0).reshape(-1)
    assert np.abs(grid[within] - expected).max() / crystal.n_electrons < ACCURACY
    assert np.abs(structure_factors(crystal, hkl) - expected).max() / crystal.n_electrons < ACCURACY
    assert not grid[~within].any()


def test_real_crystals_of_every_system() -> None:
    """AFLOW prototypes: three of each crystal system, all reflections to 1 Å."""
    seen: dict[str, int] = {}
    for i in range(count()):
        crystal = prototype(i).with_default_u_iso(0.02)
        system = gemmi.find_spacegroup_by_number(crystal.space_group_number).crystal_system_str()
        if seen.get(system, 0) == 3 or crystal.n_atoms > 60:
            continue
        seen[system] = seen.get(system, 0) + 1
        shape = tuple(2 * int(edge) + 4 for edge in crystal.cell[:3])
        within = sphere(crystal, shape, 1.0)
        hkl = indices_of(shape)[within]
        grid = structure_factor_grid(crystal, shape, 1.0).reshape(-1)[within]
        assert np.abs(grid - by_gemmi(crystal, hkl))[1:].max() / crystal.n_electrons < ACCURACY
    assert len(seen) == 7


def test_measured_crystals_of_every_system(shared_data: Path) -> None:
    """Real CIFs with anisotropic displacements and partial occupancies, all reflections to 1 Å."""
    refs = list(list_inputs(CifSource(path=str(shared_data / "cif.tar.xz")), 0))[::9]
    seen: dict[str, int] = {}
    anisotropic = partial = 0
    for _, found, _ in read_inputs(refs):
        if isinstance(found, Rejection) or found.n_atoms > 80 or found.volume > 1200 or not found.space_group_number:
            continue
        crystal = found.with_default_u_iso(0.02)
        system = gemmi.find_spacegroup_by_number(crystal.space_group_number).crystal_system_str()
        interesting = crystal.u_aniso is not None or (crystal.occupancy < 1).any()
        if seen.get(system, 0) >= (8 if interesting else 3):
            continue
        seen[system] = seen.get(system, 0) + 1
        anisotropic += crystal.u_aniso is not None
        partial += bool((crystal.occupancy < 1).any())
        shape = tuple(2 * int(edge) + 4 for edge in crystal.cell[:3])
        within = sphere(crystal, shape, 1.0)
        hkl = indices_of(shape)[within]
        grid = structure_factor_grid(crystal, shape, 1.0).reshape(-1)[within]
        assert np.abs(grid - by_gemmi(crystal, hkl))[1:].max() / crystal.n_electrons < ACCURACY
    assert len(seen) == 7
    assert anisotropic >= 5
    assert partial >= 5


@pytest.mark.parametrize("displacement", DISPLACEMENTS)
@pytest.mark.parametrize("system", ["triclinic", "monoclinic", "hexagonal", "cubic"])
def test_every_array_module_gives_the_same(xp, system: str, displacement: str) -> None:
    crystal = random_crystal(CELLS[system], seed=2, displacement=displacement)
    expected = structure_factor_grid(crystal, SHAPE, 1.0)
    actual = structure_factor_grid(crystal, SHAPE, 1.0, xp=xp)
    assert backend.namespace(actual) is backend.namespace(xp.zeros(1))
    assert_allclose(backend.to_numpy(actual), expected, atol=1e-6 * crystal.n_electrons)
    hkl = indices_of((6, 6, 6))
    listed = structure_factors(crystal, xp.asarray(hkl))
    assert_allclose(backend.to_numpy(listed), structure_factors(crystal, hkl), atol=1e-9 * crystal.n_electrons)


@given(crystals)
@settings(max_examples=25, deadline=None)
def test_friedel(crystal: Crystal) -> None:
    hkl = indices_of((6, 6, 6))
    plus, minus = structure_factors(crystal, hkl), structure_factors(crystal, -hkl)
    assert_allclose(minus, plus.conj(), atol=1e-9 * crystal.n_electrons)


@given(crystals, shifts)
@settings(max_examples=25, deadline=None)
def test_shift_theorem(crystal: Crystal, shift: tuple[float, float, float]) -> None:
    other = moved(crystal, shift)
    hkl = indices_of((6, 6, 6))
    ramp = np.exp(2j * np.pi * (hkl @ shift))
    assert_allclose(
        structure_factors(other, hkl), structure_factors(crystal, hkl) * ramp, atol=1e-9 * crystal.n_electrons
    )


@given(crystals)
@settings(max_examples=25, deadline=None)
def test_f000_is_the_number_of_electrons(crystal: Crystal) -> None:
    assert_allclose(structure_factors(crystal, np.zeros((1, 3), int)), crystal.n_electrons)
    assert_allclose(structure_factor_grid(crystal, (12, 12, 12), 1.5)[0, 0, 0], crystal.n_electrons, rtol=1e-6)


def test_centred_lattice_is_extinct() -> None:
    """NaCl, F centred: only reflections of one parity are there."""
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    salt = Crystal(
        cell=[5.64, 5.64, 5.64, 90, 90, 90], numbers=[11] * 4 + [17] * 4, positions=np.vstack([fcc, fcc + 0.5])
    )
    hkl = indices_of((12, 12, 12))
    parity = hkl % 2
    mixed = parity.min(1) != parity.max(1)
    f = structure_factor_grid(salt, (12, 12, 12), 1.2).reshape(-1)
    assert np.abs(f[mixed]).max() < 1e-4
    assert np.abs(f[~mixed]).max() > 50


@pytest.mark.parametrize("displacement", ["iso", "aniso"])
@pytest.mark.parametrize("system", ["triclinic", "orthorhombic"])
def test_blocks_of_atoms_change_nothing(monkeypatch: pytest.MonkeyPatch, system: str, displacement: str) -> None:
    crystal = random_crystal(CELLS[system], seed=3, n=37, displacement=displacement)
    whole = structure_factor_grid(crystal, SHAPE, 1.0)
    hkl = indices_of((6, 6, 6))
    listed = structure_factors(crystal, hkl)
    monkeypatch.setattr(separable, "BLOCK", 4000)
    monkeypatch.setattr(module, "BLOCK", 2000)
    assert_allclose(structure_factor_grid(crystal, SHAPE, 1.0), whole, atol=1e-6 * crystal.n_electrons)
    assert_allclose(structure_factors(crystal, hkl), listed, atol=1e-9 * crystal.n_electrons)


def test_enormous_displacements_do_not_overflow() -> None:
    crystal = random_crystal(CELLS["triclinic"], seed=4, displacement="iso")
    wild = Crystal(
        cell=crystal.cell, numbers=crystal.numbers, positions=crystal.positions,
        u_iso=np.where(np.arange(20) == 0, 9.0, 0.01),
    )  # fmt: skip
    grid = structure_factor_grid(wild, SHAPE, 0.8).reshape(-1)
    within = sphere(wild, SHAPE, 0.8)
    expected = by_gemmi(wild, indices_of(SHAPE)[within])
    assert np.abs(grid[within] - expected)[1:].max() / wild.n_electrons < ACCURACY


def test_a_grid_too_coarse_says_so_and_leaves_reflections_out() -> None:
    crystal = random_crystal((20.0, 6.0, 6.0, 90, 90, 90), seed=5)
    assert complete_d_min(crystal.cell, (16, 16, 16), 1.0) == pytest.approx(2.5)
    assert complete_d_min(crystal.cell, (64, 16, 16), 1.0) == 1.0
    f = structure_factor_grid(crystal, (16, 16, 16), 1.0)
    assert not f[8].any()
    assert np.abs(f[7]).max() > 0


@pytest.mark.parametrize(
    ("probe", "calculator"),
    [(Probe.ELECTRON, gemmi.StructureFactorCalculatorE), (Probe.NEUTRON, gemmi.StructureFactorCalculatorN)],
)
def test_other_probes_agree_with_gemmi(probe: Probe, calculator: type) -> None:
    crystal = random_crystal(CELLS["triclinic"], seed=6, displacement="aniso")
    hkl = indices_of((8, 8, 8))
    expected = by_gemmi(crystal, hkl, calculator)
    actual = structure_factors(crystal, hkl, probe=probe)
    assert_allclose(actual, expected, atol=2e-6 * np.abs(expected).max())


def test_deuterium_is_hydrogen_to_xrays_and_not_to_neutrons() -> None:
    cell = [5.0, 5, 5, 90, 90, 90]
    light = Crystal(cell=cell, numbers=[1], positions=[[0, 0, 0]])
    heavy = Crystal(cell=cell, numbers=[1], positions=[[0, 0, 0]], isotopes=[2])
    hkl = np.array([[1, 2, 3]])
    assert_allclose(structure_factors(heavy, hkl), structure_factors(light, hkl))
    # bound coherent scattering lengths, Sears (1992): H -3.739 fm, D 6.671 fm
    assert_allclose(structure_factors(light, hkl, probe=Probe.NEUTRON), -3.739, atol=1e-3)
    assert_allclose(structure_factors(heavy, hkl, probe=Probe.NEUTRON), 6.671, atol=1e-3)


def test_an_element_without_a_form_factor_is_named() -> None:
    oganesson = Crystal(cell=[5.0, 5, 5, 90, 90, 90], numbers=[118], positions=[[0, 0, 0]])
    with pytest.raises(Rejection, match="Og"):
        structure_factor_grid(oganesson, (12, 12, 12), 1.0)


def test_wrong_arguments_are_named() -> None:
    crystal = random_crystal(CELLS["cubic"], seed=7)
    with pytest.raises(ValueError, match=r"\(m, 3\)"):
        structure_factors(crystal, np.zeros(3, int))
    with pytest.raises(ValueError, match="d_min"):
        structure_factor_grid(crystal, SHAPE, 0.0)


def test_no_atoms_scatter_nothing() -> None:
    empty = Crystal(cell=[5.0, 5, 5, 90, 90, 90], numbers=[], positions=np.zeros((0, 3)))
    assert not structure_factor_grid(empty, (8, 8, 8), 1.0).any()
    assert not structure_factors(empty, np.array([[1, 0, 0]])).any()


@pytest.mark.parametrize("displacement", DISPLACEMENTS)
@pytest.mark.parametrize("system", ["triclinic", "monoclinic", "hexagonal", "cubic"])
def test_a_centre_at_the_origin_halves_the_atoms_and_changes_nothing(system: str, displacement: str) -> None:
    one = random_crystal(CELLS[system], seed=8, n=9, displacement=displacement)
    # the first is its own mate
    positions = np.vstack([[0.5, 0, 0.5], one.positions[1:], -one.positions[1:]])
    rows = [*range(9), *range(1, 9)]
    crystal = Crystal(
        cell=one.cell, numbers=one.numbers[rows], positions=positions, occupancy=one.occupancy[rows],
        u_iso=one.u_iso[rows], u_aniso=None if one.u_aniso is None else one.u_aniso[rows],
    )  # fmt: skip
    folded = Atoms.folded(crystal)
    assert (folded.centric, len(folded.weight)) == (True, 9)
    within = sphere(crystal, SHAPE, 1.0)
    grid = structure_factor_grid(crystal, SHAPE, 1.0).reshape(-1)[within]
    expected = by_gemmi(crystal, indices_of(SHAPE)[within])
    assert np.abs(grid - expected)[1:].max() / crystal.n_electrons < ACCURACY
    assert not grid.imag.any()


@pytest.mark.parametrize("changed", ["positions", "occupancy", "u_iso", "numbers", "isotopes"])
def test_atoms_that_differ_are_no_mates(changed: str) -> None:
    x = np.array([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]])
    values = {"positions": x, "numbers": [1, 1], "occupancy": [0.5, 0.5], "u_iso": [0.02, 0.02], "isotopes": [0, 0]}
    assert Atoms.folded(Crystal(cell=[5.0, 6, 7, 80, 90, 100], **values)).centric
    values[changed] = {
        "positions": x + np.array([[0, 0, 1e-6], [0, 0, 0]]), "numbers": [1, 6], "occupancy": [0.5, 0.6],
        "u_iso": [0.02, 0.021], "isotopes": [0, 2],
    }[changed]  # fmt: skip
    assert not Atoms.folded(Crystal(cell=[5.0, 6, 7, 80, 90, 100], **values)).centric


@pytest.mark.parametrize("exponent", [0.01, 0.3, 1.0, 4.0, 8.0])
def test_chebyshev_nodes_are_enough(exponent: float) -> None:
    nodes = separable.count_nodes(exponent)
    at, basis = separable.chebyshev(-9, 9, nodes)
    for y in np.linspace(-exponent, exponent, 7):
        exact = np.exp(y * np.fft.fftfreq(19, 1 / 19) / 9)
        assert np.abs(np.exp(y * at / 9) @ basis - exact).max() < 1e-5 * np.exp(exponent)
