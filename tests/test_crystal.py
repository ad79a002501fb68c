"""Crystal against gemmi 0.7.5 and pymatgen 2026.10: geometry, composition, displacements, round trips."""

from __future__ import annotations

import pickle
from functools import cache

import gemmi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY
from pymatgen.core import Composition, Element, Lattice, Species, Structure

from phaseray.crystal import REJECTION_CODES, Crystal, Rejection, isotropic_u_aniso, orthogonalization_matrix
from tests.strategies import CELLS, crystals, random_crystal

CUBIC = (4.0, 4.0, 4.0, 90.0, 90.0, 90.0)


def crystal(**changes) -> Crystal:
    return Crystal(**{"cell": CUBIC, "numbers": [26, 8], "positions": [[0, 0, 0], [0.5, 0.5, 0.5]]} | changes)


@cache
def aflow() -> list[Structure]:
    return [entry["snl"].structure for entry in AFLOW_PROTOTYPE_LIBRARY]


# -- validation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": (4, 4, 4)}, r"Crystal\.cell has shape \(3,\), expected \(6,\)"),
        ({"cell": (4, 4, np.nan, 90, 90, 90)}, r"Crystal\.cell holds values that are not finite"),
        ({"cell": (4, 4, 0, 90, 90, 90)}, "is no unit cell: check lengths"),
        ({"cell": (4, 4, -4, 90, 90, 90)}, "is no unit cell"),
        ({"cell": (4, 4, 4, 90, 90, 180)}, "is no unit cell"),
        ({"cell": (4, 4, 4, 120, 120, 120)}, "is no unit cell"),
        ({"cell": (4, 4, 4, 30, 30, 70)}, "is no unit cell"),
        ({"positions": [[0, 0, 0]]}, r"Crystal\.positions has shape \(1, 3\), expected \(2, 3\)"),
        ({"positions": [[0, 0, 0], [0, np.inf, 0]]}, r"Crystal\.positions holds values that are not finite"),
        ({"numbers": [26, 0]}, "atomic numbers from 1 to 118"),
        ({"numbers": [26, 119]}, "atomic numbers from 1 to 118"),
        ({"occupancy": [1, 0]}, "occupancy must be over 0 and at most 1"),
        ({"occupancy": [1, 1.1]}, "occupancy must be over 0 and at most 1"),
        ({"occupancy": [1]}, r"Crystal\.occupancy has shape"),
        ({"u_iso": [0.1]}, r"Crystal\.u_iso has shape"),
        ({"u_iso": [0.1, np.nan]}, r"Crystal\.u_iso holds"),
        ({"u_aniso": np.zeros((2, 3))}, r"Crystal\.u_aniso has shape \(2, 3\), expected \(2, 6\)"),
        ({"isotopes": [0]}, r"Crystal\.isotopes has shape"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in remainder")
def test_what_cannot_be_a_crystal_is_refused_by_name(changes, message: str):
    with pytest.raises(ValueError, match=message):
        crystal(**changes)


def test_defaults_are_full_occupancy_and_no_known_displacement():
    made = crystal()
    assert made.occupancy.tolist() == [1, 1]
    assert made.u_iso.tolist() == [0, 0]
    assert made.isotopes.tolist() == [0, 0]
    assert made.u_aniso is None
    assert made.n_electrons == 34


def test_a_crystal_without_atoms_is_allowed():
    made = crystal(numbers=[], positions=[])
    assert made.n_atoms == 0
    assert made.formula == ""
    assert made.n_electrons == 0


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 3), min_size=1, max_size=5))
def test_positions_lie_from_zero_to_below_one(positions):
    made = crystal(numbers=[6] * len(positions), positions=positions)
    assert made.positions.min() >= 0
    assert made.positions.max() < 1
    turns = made.positions - np.array(positions)
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-9)


def test_a_hair_under_zero_is_zero_and_not_one():
    assert crystal(positions=[[-1e-17, 0, 0], [-1e-300, 1, 2]]).positions.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_arrays_are_read_only_and_the_callers_are_left_alone():
    positions = np.array([[0.0, 0, 0], [1.5, 0.5, 0.5]])
    made = crystal(positions=positions, u_aniso=np.ones((2, 6)))
    again = pickle.loads(pickle.dumps(made))
    for one in (made, again):
        for name in ("cell", "numbers", "positions", "occupancy", "u_iso", "u_aniso", "isotopes"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(one, name)[0] = 1
    positions[0] = 0.7
    assert made.positions.tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]
    np.testing.assert_array_equal(again.positions, made.positions)


# -- geometry --------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_cell_geometry_is_that_of_gemmi_and_pymatgen(cell):
    made, theirs, lattice = crystal(cell=cell), gemmi.UnitCell(*cell), Lattice.from_parameters(*cell)
    assert made.volume == pytest.approx(theirs.volume, rel=1e-12)
    assert made.volume == pytest.approx(lattice.volume, rel=1e-12)
    np.testing.assert_allclose(made.orthogonalization, theirs.orth.mat.tolist(), atol=1e-12)
    np.testing.assert_array_equal(made.orthogonalization, orthogonalization_matrix(cell))
    assert (made.orthogonalization[[1, 2, 2], [0, 0, 1]] == 0).all()
    for hkl in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, -3, 1)]:
        d = (hkl @ made.reciprocal_metric @ hkl) ** -0.5
        assert d == pytest.approx(theirs.calculate_d(list(hkl)), rel=1e-12)
        assert d == pytest.approx(lattice.d_hkl(hkl), rel=1e-9)


# -- composition -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "occupancy", "formula", "reduced"),
    [
        ([8, 1, 1, 6, 6], None, "C2 H2 O", "C2 H2 O"),
        ([6, 6, 1, 1, 1, 1, 8, 8], None, "C2 H4 O2", "C H2 O"),
        ([26] * 4, None, "Fe4", "Fe"),
        ([11, 17] * 4, None, "Cl4 Na4", "Cl Na"),
        ([26, 27], [0.5, 0.5], "Co0.5 Fe0.5", "Co50 Fe50"),
        ([26, 27] * 2, [0.5, 0.5] * 2, "Co Fe", "Co Fe"),
        ([8] * 3, [1 / 3] * 3, "O", "O"),
    ],
)
def test_formulas_in_hill_order(numbers, occupancy, formula: str, reduced: str):
    made = crystal(numbers=numbers, positions=np.zeros((len(numbers), 3)), occupancy=occupancy)
    assert made.formula == formula
    assert made.reduced_formula == reduced


def test_reduced_formula_of_partial_cells_does_not_depend_on_their_size():
    one = crystal(numbers=[26, 27, 8], positions=np.zeros((3, 3)), occupancy=[0.3, 0.7, 1])
    three = crystal(numbers=[26, 27, 8] * 3, positions=np.zeros((9, 3)), occupancy=[0.3, 0.7, 1] * 3)
    assert one.reduced_formula == three.reduced_formula == "Co35 Fe15 O50"


def amounts(formula: str) -> dict[str, float]:
    return dict(Composition(formula).get_el_amt_dict())


def test_reduced_formula_has_the_amounts_of_pymatgen():
    for structure in aflow():
        ours = amounts(Crystal.from_pymatgen(structure).reduced_formula)
        theirs = amounts(structure.composition.element_composition.reduced_formula)
        if len(ours) == 1:  # pymatgen calls oxygen O2 and nitrogen N2
            theirs = dict.fromkeys(theirs, 1)
        assert ours == theirs


# -- displacement ----------------------------------------------------------------------------


@given(crystals)
def test_cartesian_u_is_that_of_gemmi(made: Crystal):
    """Debye-Waller factors: hᵀ U_cart h from ours against gemmi's own from U_cif."""
    cell = gemmi.UnitCell(*made.cell)
    ours = made.cartesian_u()
    for i, site in enumerate(made.to_gemmi().sites):
        for hkl in [(1, 0, 0), (0, 2, -1), (3, -2, 1)]:
            s = np.linalg.solve(made.orthogonalization.T, hkl)
            if made.u_aniso is None:
                expected = site.u_iso / cell.calculate_d(list(hkl)) ** 2
            else:
                scaled = np.array(hkl) * [cell.reciprocal().a, cell.reciprocal().b, cell.reciprocal().c]
                expected = site.aniso.r_u_r(gemmi.Vec3(*scaled))
            assert s @ ours[i] @ s == pytest.approx(expected, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(ours, ours.transpose(0, 2, 1), atol=1e-15)


@given(crystals)
def test_u_equivalent_is_a_third_of_the_trace(made: Crystal):
    np.testing.assert_allclose(made.u_iso, np.trace(made.cartesian_u(), axis1=1, axis2=2) / 3, atol=1e-12)


def test_u_equivalent_of_a_monoclinic_cell_by_hand():
    """U_eq = (U22 + (U11 + U33 + 2 U13 cos β) / sin² β) / 3: Fischer & Tillmanns (1988), Acta Cryst. C44, 775."""
    u11, u22, u33, u12, u13, u23 = 0.02, 0.03, 0.05, 0.001, 0.008, -0.002
    made = crystal(cell=CELLS["monoclinic"], numbers=[6], positions=[0, 0, 0], u_aniso=[[u11, u22, u33, u12, u13, u23]])
    beta = np.radians(104)
    expected = (u22 + (u11 + u33 + 2 * u13 * np.cos(beta)) / np.sin(beta) ** 2) / 3
    assert made.u_iso[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_isotropic_u_aniso_comes_back_as_u_iso(cell):
    u = np.array([0.01, 0.02, 0.3])
    made = crystal(cell=cell, numbers=[6] * 3, positions=np.zeros((3, 3)), u_aniso=isotropic_u_aniso(cell, u))
    np.testing.assert_allclose(made.u_iso, u, rtol=1e-12)
    np.testing.assert_allclose(made.cartesian_u(), u[:, None, None] * np.eye(3), atol=1e-14)
    assert isotropic_u_aniso(cell, 0.01).shape == (6,)


@pytest.mark.parametrize("aniso", [False, True])
def test_default_u_iso_goes_to_atoms_of_which_nothing_is_known(aniso: bool):
    u = [0.0, 0.03]
    cell = CELLS["triclinic"]
    made = crystal(cell=cell, u_iso=u, u_aniso=isotropic_u_aniso(cell, u) if aniso else None, id="x")
    filled = made.with_default_u_iso(0.02)
    assert filled.u_iso.tolist() == [0.02, 0.03]
    np.testing.assert_allclose(filled.cartesian_u(), np.multiply.outer([0.02, 0.03], np.eye(3)), atol=1e-14)
    assert filled.id == "x"
    assert filled.with_default_u_iso(0.5) is filled
    assert made.u_iso.tolist() == u


# -- pymatgen --------------------------------------------------------------------------------


def test_round_trip_of_every_aflow_prototype():
    for structure in aflow():
        made = Crystal.from_pymatgen(structure)
        assert made.volume == pytest.approx(structure.volume, rel=1e-9)
        assert made.composition == pytest.approx(structure.composition.get_el_amt_dict())
        back = made.to_pymatgen()
        np.testing.assert_allclose(back.lattice.parameters, structure.lattice.parameters, rtol=1e-9)
        np.testing.assert_array_equal(back.atomic_numbers, structure.atomic_numbers)
        apart = back.frac_coords - structure.frac_coords
        np.testing.assert_allclose(apart, np.rint(apart), atol=1e-9)
        np.testing.assert_allclose(back.distance_matrix, structure.distance_matrix, atol=1e-7)
        again = Crystal.from_pymatgen(back)
        np.testing.assert_array_equal(again.positions, made.positions)
        np.testing.assert_array_equal(again.occupancy, made.occupancy)
        np.testing.assert_allclose(again.cell, made.cell, rtol=1e-12)


def test_deuterium_and_tritium_keep_their_mass():
    structure = Structure(Lattice.cubic(4), ["D", "H", "T", "O", Species("D", 1)], np.arange(15).reshape(5, 3) / 16)
    made = Crystal.from_pymatgen(structure)
    assert made.numbers.tolist() == [1, 1, 1, 8, 1]
    assert made.isotopes.tolist() == [2, 0, 3, 0, 2]
    assert made.composition == {"H": 4, "O": 1}
    back = made.to_pymatgen()
    assert [site.specie.name for site in back] == ["D", "H", "T", "O", "D"]
    assert Crystal.from_pymatgen(back).isotopes.tolist() == made.isotopes.tolist()


def test_a_disordered_site_is_an_atom_a_species_and_one_site_again():
    structure = Structure(
        Lattice.from_parameters(*CELLS["triclinic"]),
        [{"Fe": 0.25, "Co": 0.5}, {"D": 0.5, "H": 0.5}, {"O2-": 0.9}, "S"],
        [[0.1, 0.2, 0.3], [0.999, 0, 0], [0.5, 0.5, 0.5], [0.1, 0.7, 0.3]],
    )
    made = Crystal.from_pymatgen(structure, id="x", space_group="P 1")
    assert made.n_atoms == 6
    assert made.id == "x"
    back = made.to_pymatgen()
    assert len(back) == 4
    assert [dict(site.species.items()) for site in back] == [
        {Element("Fe"): 0.25, Element("Co"): 0.5},
        {Element("D"): 0.5, Element("H"): 0.5},
        {Element("O"): 0.9},
        {Element("S"): 1},
    ]
    np.testing.assert_allclose(back.frac_coords, structure.frac_coords)


def test_partial_atoms_across_the_edge_of_the_cell_share_a_site():
    made = crystal(numbers=[26, 27], positions=[[0.0, 0, 0], [0.9999, 0, 0]], occupancy=[0.5, 0.5])
    assert len(made.to_pymatgen()) == 1


def test_full_atoms_are_never_merged():
    made = crystal(numbers=[26, 27], positions=[[0.0, 0, 0], [0.0001, 0, 0]])
    assert len(made.to_pymatgen()) == 2


def test_u_iso_goes_along():
    made = crystal(u_iso=[0.01, 0.02])
    assert Crystal.from_pymatgen(made.to_pymatgen()).u_iso.tolist() == [0.01, 0.02]


def test_a_left_handed_lattice_keeps_the_hand_of_the_structure():
    """Signed volume of four atoms, in Å: the mirror image has the other sign, and pymatgen allows left-handed axes."""
    rng = np.random.default_rng(0)
    right = Lattice.from_parameters(*CELLS["triclinic"]).matrix
    left = right * [1, 1, -1]
    positions = rng.random((4, 3)) * 0.3 + 0.3

    def signed_volume(cartesian):
        return np.linalg.det(cartesian[1:] - cartesian[0])

    for matrix in (right, left):
        structure = Structure(Lattice(matrix), ["C", "N", "O", "F"], positions)
        made = Crystal.from_pymatgen(structure)
        hand = signed_volume(made.positions @ made.orthogonalization.T)
        assert hand == pytest.approx(signed_volume(structure.cart_coords), rel=1e-9)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_distances_are_those_of_pymatgen(cell):
    made = random_crystal(cell, 3, n=6, numbers=(6, 7, 8))
    made = crystal(cell=cell, numbers=made.numbers, positions=made.positions)
    assert made.to_pymatgen().distance_matrix.max() > 1
    cartesian = made.positions @ made.orthogonalization.T
    direct = np.linalg.norm(cartesian[:, None] - cartesian, axis=-1)
    structure = made.to_pymatgen()
    theirs = np.linalg.norm(structure.cart_coords[:, None] - structure.cart_coords, axis=-1)
    np.testing.assert_allclose(direct, theirs, atol=1e-9)


# -- rejections ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", REJECTION_CODES)
def test_a_rejection_survives_the_way_between_processes(code: str):
    rejection = Rejection(code, "what is wrong, where, what to do")
    again = pickle.loads(pickle.dumps(rejection))
    assert type(again) is Rejection
    assert (again.code, again.sentence, str(again)) == (code, rejection.sentence, str(rejection))
    assert isinstance(again, ValueError)


def test_a_rejection_has_a_known_code():
    with pytest.raises(AssertionError):
        Rejection("no_such_code", "x")
