"""Crystal: one structure as arrays, and Rejection: why an input is not one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING, Any

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from pymatgen.core import Structure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Stable: catalogues on disk hold these words. Add, never rename.
REJECTION_CODES: Mapping[str, str] = {
    "syntax": "not CIF, or CIF so broken that its meaning is not certain",
    "encoding": "bytes that are no text",
    "truncated": "the file ends before its data do",
    "macromolecule": "a macromolecular file; only small-molecule CIF is read",
    "no_cell": "unit cell missing or incomplete",
    "bad_cell": "unit cell impossible, or at odds with the symmetry",
    "no_symmetry": "neither operators nor a known space group",
    "bad_symmetry": "operators that form no group, or contradict the space group",
    "modulated": "modulated or composite structure (superspace group)",
    "no_atoms": "no atom with usable coordinates",
    "bad_coordinates": "some coordinates missing or not numbers",
    "bad_occupancy": "occupancies impossible",
    "bad_displacement": "displacement parameters impossible",
    "unknown_element": "a site whose element cannot be known",
    "clash": "atoms on top of one another that disorder does not explain",
    "disorder": "disorder whose occupancies cannot be known",
    "formula_mismatch": "atoms do not add up to the formula that the file states",
    "too_large": "over the limits set on atoms, volume, edges or bytes",
    "too_slow": "over the time limit set on reading one input",
    "held_out": "shares its formula or its prototype with a test set, so it must not be trained on",
    "unreadable": "the input could not be opened or read",
    "internal": "an unforeseen error in the reader; please report the file",
}

# The isotopes that have names in pymatgen.
_ISOTOPES = {"D": 2, "T": 3}


class Rejection(ValueError):  # noqa: N818 - an outcome, not an error
    """An input that does not give a crystal.

    Attributes
    ----------
    code : str
        One of REJECTION_CODES: stable, for programs.
    sentence : str
        What is wrong, where, and what to do: for a person.
    """

    def __init__(self, code: str, sentence: str) -> None:
        assert code in REJECTION_CODES, code
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence

    def __reduce__(self) -> tuple[type[Rejection], tuple[str, str]]:
        # ValueError would be rebuilt from its one message; Ray sends these between processes.
        return type(self), (self.code, self.sentence)


@dataclass(frozen=True, eq=False)
class Crystal:
    """The whole P1 unit cell of one structure. Arrays are read-only.

    Attributes
    ----------
    cell : (6,) float64
        a, b, c in Å, then α, β, γ in degrees.
    numbers : (n,) int64
        Atomic numbers; deuterium is 1 with isotope 2.
    positions : (n, 3) float64
        Fractional coordinates, in [0, 1).
    occupancy : (n,) float64
        In (0, 1]: the share of cells in which this atom is there (crystallographic).
    u_iso : (n,) float64
        Mean square displacement in Å²; U_eq where `u_aniso` is given; 0 where nothing is known.
    u_aniso : (n, 6) float64 or None
        U11, U22, U33, U12, U13, U23 in Å² on the dimensionless reciprocal basis, as CIF's
        _atom_site_aniso_U (IT C 2.1, "U_cif"): T = exp(-2π² Σ U_ij h_i h_j a*_i a*_j).
        Every row is filled: isotropic atoms hold the tensor equal to their `u_iso`.
    isotopes : (n,) int64
        Mass numbers, 0 for the natural mixture.
    space_group : str or None
        Hermann-Mauguin symbol of the setting in which `cell` and `positions` are given; None where
        that is not known. The atoms are always those of the whole cell.
    space_group_number : int or None
        May be known without the setting.
    id, source
        Where the structure comes from.
    notes : tuple of str
        What the reader repaired or found odd, a sentence each.

    Raises
    ------
    ValueError
        Shapes that disagree, values that are not finite, an impossible cell.
    """

    cell: Floats
    numbers: Ints
    positions: Floats
    occupancy: Floats = field(default=None)  # type: ignore[arg-type]
    u_iso: Floats = field(default=None)  # type: ignore[arg-type]
    u_aniso: Floats | None = None
    isotopes: Ints = field(default=None)  # type: ignore[arg-type]
    space_group: str | None = None
    space_group_number: int | None = None
    id: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def put(name: str, value: ArrayLike, dtype: type, shape: tuple[int, ...]) -> None:
            array: NDArray[Any] = np.array(value, dtype=dtype)
            if array.shape != shape:
                raise ValueError(f"Crystal.{name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"Crystal.{name} holds values that are not finite")
            array.flags.writeable = False
            object.__setattr__(self, name, array)

        put("cell", self.cell, np.float64, (6,))
        n = len(np.atleast_1d(np.asarray(self.numbers)))
        put("numbers", self.numbers, np.int64, (n,))
        positions = np.asarray(self.positions, np.float64).reshape(-1, 3) % 1.0
        positions[positions == 1.0] = 0.0  # -1e-17 % 1.0 is 1.0
        put("positions", positions, np.float64, (n, 3))
        put("occupancy", np.ones(n) if self.occupancy is None else self.occupancy, np.float64, (n,))
        put("isotopes", np.zeros(n, int) if self.isotopes is None else self.isotopes, np.int64, (n,))
        if self.u_aniso is not None:
            put("u_aniso", self.u_aniso, np.float64, (n, 6))
        if self.u_iso is not None:
            put("u_iso", self.u_iso, np.float64, (n,))
        if not _cell_is_possible(self.cell):
            raise ValueError(f"Crystal.cell {self.cell.tolist()} is no unit cell: check lengths (Å) and angles (°)")
        if n and not (self.numbers.min() >= 1 and self.numbers.max() <= 118):
            raise ValueError("Crystal.numbers must be atomic numbers from 1 to 118")
        if n and not (self.occupancy.min() > 0 and self.occupancy.max() <= 1):
            raise ValueError("Crystal.occupancy must be over 0 and at most 1")
        if self.u_iso is None:
            put("u_iso", np.zeros(n) if self.u_aniso is None else self._u_equivalent(), np.float64, (n,))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # pickle gives writeable arrays back
        for value in state.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        self.__dict__.update(state)

    # -- geometry ---------------------------------------------------------------------------

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    @cached_property
    def orthogonalization(self) -> Floats:
        """(3, 3): fractional columns to Cartesian Å, a along x and b in the xy plane (PDB, gemmi)."""
        return orthogonalization_matrix(self.cell)

    @cached_property
    def reciprocal_metric(self) -> Floats:
        """(3, 3) G* in Å⁻²: 1/d² = hᵀ G* h."""
        g = self._unit_cell.reciprocal_metric_tensor()
        return np.array([[g.u11, g.u12, g.u13], [g.u12, g.u22, g.u23], [g.u13, g.u23, g.u33]])

    @cached_property
    def volume(self) -> float:
        """Å³."""
        return float(self._unit_cell.volume)

    @cached_property
    def _unit_cell(self) -> gemmi.UnitCell:
        return gemmi.UnitCell(*self.cell.tolist())

    @property
    def n_electrons(self) -> float:
        """Σ occupancy · Z: F(000) for X-rays."""
        return float(self.occupancy @ self.numbers)

    # -- composition ------------------------------------------------------------------------

    @cached_property
    def composition(self) -> dict[str, float]:
        """Element symbol to number of atoms in the cell, in Hill order; D counts as H."""
        amounts = np.bincount(self.numbers, weights=self.occupancy, minlength=119)
        named = {gemmi.Element(int(z)).name: float(amounts[z]) for z in np.flatnonzero(amounts)}
        first = ["C", "H"] if "C" in named else []
        return {s: named[s] for s in [*[f for f in first if f in named], *sorted(set(named) - set(first))]}

    @property
    def formula(self) -> str:
        """Contents of the cell, e.g. 'C4 H8 O2'."""
        return " ".join(f"{s}{_amount(a)}" for s, a in self.composition.items())

    @property
    def reduced_formula(self) -> str:
        """Formula with the smallest whole numbers, e.g. 'C2 H4 O'; the key of the data split.

        Cells with partial occupancies that do not add up to whole numbers are given as
        percentages of all atoms, so that it does not depend on the size of the cell.
        """
        amounts = list(self.composition.values())
        whole = [round(a) for a in amounts]
        if all(w > 0 and abs(a - w) < 0.01 for a, w in zip(amounts, whole, strict=True)):
            divisor = gcd(*whole)
            reduced = [float(w // divisor) for w in whole]
        else:
            reduced = [round(100 * a / sum(amounts), 1) for a in amounts]
        return " ".join(f"{s}{_amount(a)}" for s, a in zip(self.composition, reduced, strict=True))

    # -- displacement -----------------------------------------------------------------------

    def _u_equivalent(self) -> Floats:
        """U_eq = trace of the Cartesian tensor / 3 (Fischer & Tillmanns 1988)."""
        assert self.u_aniso is not None
        u_equivalent: Floats = np.trace(self.cartesian_u(), axis1=1, axis2=2) / 3
        return u_equivalent

    def cartesian_u(self) -> Floats:
        """(n, 3, 3) displacement tensors in Å² on the Cartesian axes of `orthogonalization`."""
        if self.u_aniso is None:
            return self.u_iso[:, None, None] * np.eye(3)
        m = self.orthogonalization * np.sqrt(np.diag(self.reciprocal_metric))
        cartesian: Floats = np.einsum("ij,njk,lk->nil", m, symmetric_tensors(self.u_aniso), m)
        return cartesian

    def with_default_u_iso(self, u_iso: float) -> Crystal:
        """The same crystal with `u_iso` (Å²) for the atoms of which nothing is known (0)."""
        unknown = self.u_iso == 0
        if not unknown.any():
            return self
        u_aniso = self.u_aniso
        if u_aniso is not None:
            u_aniso = np.where(unknown[:, None], isotropic_u_aniso(self.cell, u_iso), u_aniso)
        return replace(self, u_iso=np.where(unknown, u_iso, self.u_iso), u_aniso=u_aniso)

    # -- other programs' structures ---------------------------------------------------------------------------

    @classmethod
    def from_pymatgen(cls, structure: Structure, **known: Any) -> Crystal:
        """From a pymatgen Structure; a disordered site gives an atom a species.

        `known` sets further fields (id, source, space_group, …). Site property "u_iso" (Å²) is
        kept. Oxidation states are dropped. Cells are right-handed here: a structure on left-handed
        axes is turned to the opposite axes, so that its hand stays the same.
        """
        hand = np.sign(np.linalg.det(structure.lattice.matrix))
        rows = [
            # a Species keeps its isotope in `element`; `symbol` of both is H
            (
                species.Z,
                hand * site.frac_coords,
                amount,
                _ISOTOPES.get(getattr(species, "element", species).name, 0),
                float(site.properties.get("u_iso") or 0.0),
            )
            for site in structure
            for species, amount in site.species.items()
        ]
        numbers, positions, occupancy, isotopes, u_iso = zip(*rows, strict=True) if rows else ((),) * 5
        return cls(
            cell=np.array(structure.lattice.parameters), numbers=np.array(numbers, int),
            positions=np.array(positions, float).reshape(-1, 3), occupancy=np.array(occupancy, float),
            isotopes=np.array(isotopes, int), u_iso=np.array(u_iso, float), **known,
        )  # fmt: skip

    def to_pymatgen(self) -> Structure:
        """A pymatgen Structure; atoms that share a position (within 0.01 Å) become one site.

        Displacements go into the site property "u_iso" (Å²); anisotropy is lost.
        """
        from pymatgen.core import Element, Lattice, Structure

        def element(i: int) -> Element:
            if self.numbers[i] == 1 and self.isotopes[i] in _ISOTOPES.values():
                return Element("D" if self.isotopes[i] == 2 else "T")
            return Element.from_Z(int(self.numbers[i]))

        shared = np.arange(self.n_atoms)
        if (self.occupancy < 1).any():
            partial = np.flatnonzero(self.occupancy < 1)
            delta = self.positions[partial, None] - self.positions[None, partial]
            apart = np.linalg.norm((delta - np.round(delta)) @ self.orthogonalization.T, axis=-1)
            shared[partial] = partial[(apart < 0.01).argmax(1)]
        species, positions, u_iso = [], [], []
        for first in np.unique(shared):
            members = np.flatnonzero(shared == first)
            mixture: dict[Element, float] = {}
            for i in members.tolist():
                mixture[element(i)] = mixture.get(element(i), 0.0) + float(self.occupancy[i])
            species.append(mixture)
            positions.append(self.positions[first])
            u_iso.append(float(self.u_iso[first]))
        lattice = Lattice.from_parameters(*self.cell)
        return Structure(lattice, species, positions, site_properties={"u_iso": u_iso})

    def to_gemmi(self) -> gemmi.SmallStructure:
        """The P1 structure for gemmi's calculators; occupancies are crystallographic."""
        small = gemmi.SmallStructure()
        small.cell = gemmi.UnitCell(*self.cell)
        small.spacegroup = gemmi.SpaceGroup("P 1")
        small.setup_cell_images()
        for i in range(self.n_atoms):
            site = gemmi.SmallStructure.Site()
            deuterium = self.numbers[i] == 1 and self.isotopes[i] == 2
            site.element = gemmi.Element("D") if deuterium else gemmi.Element(int(self.numbers[i]))
            site.fract = gemmi.Fractional(*self.positions[i])
            site.occ = self.occupancy[i]
            site.u_iso = self.u_iso[i]
            if self.u_aniso is not None:
                site.aniso = gemmi.SMat33d(*self.u_aniso[i])
            small.add_site(site)
        return small


def orthogonalization_matrix(cell: ArrayLike) -> Floats:
    """(3, 3) matrix from fractional to Cartesian Å: a along x, b in the xy plane (IT B 3.3.1)."""
    return np.array(gemmi.UnitCell(*np.asarray(cell, float)).orth.mat.tolist())


def symmetric_tensors(u: Floats) -> Floats:
    """(…, 6) as U11 U22 U33 U12 U13 U23 to (…, 3, 3)."""
    return u[..., [[0, 3, 4], [3, 1, 5], [4, 5, 2]]]


def isotropic_u_aniso(cell: ArrayLike, u_iso: ArrayLike) -> Floats:
    """(…, 6) U_cif of an isotropic displacement `u_iso` (…) in Å²: U · cos of the reciprocal angles."""
    inverse = np.linalg.inv(orthogonalization_matrix(cell))
    metric = inverse @ inverse.T
    lengths = np.sqrt(np.diag(metric))
    cosines = (metric / np.outer(lengths, lengths))[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    u_aniso: Floats = np.multiply.outer(np.asarray(u_iso, float), cosines)
    return u_aniso


def _cell_is_possible(cell: Floats) -> bool:
    if not ((cell[:3] > 0).all() and (cell[3:] > 0).all() and (cell[3:] < 180).all()):
        return False
    ca, cb, cg = np.cos(np.radians(cell[3:]))
    return bool(1 - ca * ca - cb * cb - cg * cg + 2 * ca * cb * cg > 1e-6)


def _amount(value: float) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return "" if text == "1" else text
