"""Molecules put together at random from rings, chains and groups, with hydrogen and a conformation (RDKit)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# SMILES, and how often; a piece is joined by a single bond in place of two hydrogens
_RINGS = {
    "c1ccccc1": 10, "c1ccncc1": 3, "C1CCCCC1": 2, "C1CCCC1": 1, "c1ccc2ccccc2c1": 1.5, "c1cc[nH]c1": 0.6, "c1ccsc1": 1,
    "c1ccoc1": 0.7, "c1cncnc1": 0.8, "c1c[nH]cn1": 1, "C1CCNCC1": 1, "C1COCCN1": 0.7, "c1ccc2[nH]ccc2c1": 0.7,
    "c1ccc2ncccc2c1": 0.7, "C1CC1": 0.4, "C1CCOC1": 0.6, "O=C1CCC(=O)N1": 0.4, "O=c1cc[nH]c(=O)[nH]1": 0.5,
    "c1nnc[nH]1": 0.5, "c1cscn1": 0.5, "C1CCOCC1": 0.4, "O=C1C=CC(=O)C=C1": 0.3,
}  # fmt: skip
_GROUPS = {
    "C": 8, "CC": 3, "C(C)C": 1, "O": 5, "N": 3, "C(=O)O": 3.5, "C(=O)N": 2, "C(=O)": 1, "OC": 2.5, "C(=O)OC": 1.5,
    "[N+](=O)[O-]": 1.5, "C#N": 1, "F": 1.5, "Cl": 2.5, "Br": 1.2, "I": 0.4, "S": 0.5, "SC": 0.5, "C(F)(F)F": 0.5,
    "NC(=O)C": 1, "S(=O)(=O)N": 0.6, "S(=O)(=O)C": 0.4, "C=C": 0.7, "C#C": 0.4, "N=NC": 0.2, "P(=O)(O)O": 0.4,
    "B(O)O": 0.3, "C=NO": 0.3, "NC(=S)N": 0.4, "CO": 1.2, "C(N)C(=O)O": 0.8, "CCN": 0.6,
}  # fmt: skip
_LINKS = {
    "C": 4,
    "CC": 3,
    "O": 1.5,
    "N": 1.5,
    "C(=O)N": 1.5,
    "C=C": 1,
    "C=NN": 0.5,
    "C(=O)": 1,
    "S": 0.5,
    "C(=O)O": 0.7,
}
_TRIES = 6

# What crystallizes along with a molecule: elements and places in Å
_TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
_TRIANGLE = np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]])
_WATER = np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])


@dataclass(frozen=True, eq=False)
class Molecule:
    """Atomic `numbers` (n,) and `places` (n, 3) in Å about the mean; `polar` (n,): hydrogen on N or O."""

    numbers: Ints
    places: Floats
    polar: NDArray[np.bool_]


def draw_molecule(rng: np.random.Generator, heavy_atoms: int) -> Molecule | None:
    """A molecule of about so many atoms other than hydrogen; None where RDKit finds no conformation.

    Raises
    ------
    ValueError
        RDKit is not installed.
    """
    chem, distances = _rdkit()
    for _ in range(_TRIES):
        mol = _graph(rng, heavy_atoms)
        if mol.GetNumAtoms() > 1.3 * heavy_atoms + 2:
            continue
        mol = chem.AddHs(mol)
        parameters = distances.ETKDGv3()
        parameters.randomSeed = int(rng.integers(2**31 - 1))
        parameters.maxIterations = 4
        if distances.EmbedMolecule(mol, parameters) == 0:
            return _molecule(mol)
    return None


def draw_companion(rng: np.random.Generator) -> Molecule:
    """Water, an ion or a complex: what a molecule crystallizes with."""
    kind = rng.choice(
        ["water", "halide", "metal", "tetrahedral", "nitrate", "complex"], p=[0.4, 0.15, 0.1, 0.15, 0.1, 0.1]
    )
    if kind == "water":
        return _fixed(["O", "H", "H"], _WATER)
    if kind == "halide":
        return _fixed([str(rng.choice(["Cl", "Br", "I"]))], np.zeros((1, 3)))
    if kind == "metal":
        return _fixed([str(rng.choice(["Na", "K", "Cs", "Ca", "Rb"]))], np.zeros((1, 3)))
    if kind == "nitrate":
        return _fixed(["N", "O", "O", "O"], np.vstack([np.zeros(3), 1.25 * _TRIANGLE]))
    if kind == "tetrahedral":
        centre, outer, length = [("Cl", "O", 1.43), ("B", "F", 1.39), ("S", "O", 1.48), ("P", "F", 1.6)][
            rng.integers(4)
        ]
        return _fixed([centre] + 4 * [outer], np.vstack([np.zeros(3), length * _TETRAHEDRON]))
    return metal_complex(rng)


def metal_complex(rng: np.random.Generator) -> Molecule:
    """A metal with four or six halides, waters or ammonias."""
    metal = str(rng.choice(["Co", "Ni", "Cu", "Zn", "Fe", "Mn", "Pd", "Pt", "Cr", "Cd", "Sn", "Hg"]))
    octahedron = np.vstack([np.eye(3), -np.eye(3)])
    directions = [octahedron, _TETRAHEDRON, octahedron[[0, 1, 3, 4]]][rng.integers(3)]
    symbols, places = [metal], [np.zeros(3)]
    ligand = rng.choice(["Cl", "Br", "O", "N"], p=[0.4, 0.15, 0.3, 0.15])
    for direction in directions:
        if rng.random() < 0.2:
            ligand = rng.choice(["Cl", "O", "N"])
        length = {"Cl": 2.3, "Br": 2.45, "O": 2.05, "N": 2.08}[str(ligand)] * rng.uniform(0.96, 1.05)
        symbols.append(str(ligand))
        places.append(length * direction)
        hydrogens = {"O": 2, "N": 3}.get(str(ligand), 0)
        across = np.linalg.svd(direction[None])[2][1:]
        turn = rng.uniform(0, 2 * np.pi)
        for k in range(hydrogens):
            angle = turn + 2 * np.pi * k / max(hydrogens, 2)
            out = 0.5 * direction + 0.82 * (np.cos(angle) * across[0] + np.sin(angle) * across[1])
            symbols.append("H")
            places.append(length * direction + out)
    return _fixed(symbols, np.array(places))


def _graph(rng: np.random.Generator, heavy_atoms: int) -> Any:
    chem, _ = _rdkit()
    mol = _piece(_choose(rng, _RINGS if rng.random() < 0.75 and heavy_atoms > 4 else _GROUPS))
    while mol.GetNumAtoms() < heavy_atoms:
        missing = heavy_atoms - mol.GetNumAtoms()
        table = _RINGS if missing >= 6 and rng.random() < 0.45 else _LINKS if missing > 8 else _GROUPS
        piece = _piece(_choose(rng, table))
        free = [a.GetIdx() for a in mol.GetAtoms() if a.GetTotalNumHs() > 0]
        # groups hang on their first atom
        ends = [a.GetIdx() for a in piece.GetAtoms() if a.GetTotalNumHs() > 0]
        ends = ends[:1] if table is not _RINGS else ends
        if not free or not ends or (table is _GROUPS and ends[0] != 0):
            ends = [0] if table is _GROUPS else ends
        if not free or not ends:
            break
        a, b = int(rng.choice(free)), int(rng.choice(ends))
        joined = chem.RWMol(chem.CombineMols(mol, piece))
        joined.AddBond(a, mol.GetNumAtoms() + b, chem.BondType.SINGLE)
        for i in (a, mol.GetNumAtoms() + b):
            atom = joined.GetAtomWithIdx(i)
            # an explicit hydrogen ([nH]) gives its place
            if atom.GetNumExplicitHs():
                atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
        try:
            chem.SanitizeMol(joined)
        except ValueError:
            break
        mol = joined.GetMol()
    return mol


def _choose(rng: np.random.Generator, table: dict[str, float]) -> str:
    weights = np.array(list(table.values()))
    return list(table)[int(rng.choice(len(weights), p=weights / weights.sum()))]


@lru_cache(maxsize=256)
def _piece(smiles: str) -> Any:
    return _rdkit()[0].MolFromSmiles(smiles)


def _molecule(mol: Any) -> Molecule:
    numbers = np.array([a.GetAtomicNum() for a in mol.GetAtoms()])
    polar = np.array(
        [a.GetAtomicNum() == 1 and a.GetNeighbors()[0].GetAtomicNum() in (7, 8) for a in mol.GetAtoms()], bool
    )
    places = np.array(mol.GetConformer().GetPositions(), float)
    return Molecule(numbers, places - places.mean(0), polar)


def _fixed(symbols: list[str], places: Floats) -> Molecule:
    numbers = np.array([gemmi.Element(symbol).atomic_number for symbol in symbols])
    return Molecule(numbers, places - places.mean(0), numbers == 1)


@lru_cache(maxsize=1)
def _rdkit() -> tuple[Any, Any]:
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem import rdDistGeom
    except ImportError as error:
        raise ValueError(
            "artificial molecular crystals need RDKit: `python -m pip install 'phaseray[molecules]'` brings it "
            "(on every node, when Ray runs on several)"
        ) from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    return Chem, rdDistGeom
