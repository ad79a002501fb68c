"""Structures as plain dictionaries: pymatgen's (the Materials Project's) and LeMat-Bulk's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gemmi
import numpy as np

from phaseray.config import Limits
from phaseray.crystal import Crystal, Floats, Rejection

LEMAT_COLUMNS = ("lattice_vectors", "cartesian_site_positions", "species_at_sites")

_ISOTOPES = {"D": 2, "T": 3}
# Å: nearer than this, two whole atoms are no crystal; the shortest bond, H-H, has 0.74
_NEAREST = 0.5
_ROWS = 256


def crystal_from_pymatgen(row: Any, limits: Limits, *, id: str = "", source: str = "") -> Crystal:
    """From what pymatgen's Structure.as_dict() gives, without pymatgen; a disordered site gives an atom a species.

    Oxidation states and other properties are dropped; no displacement is known, unless a site has "u_iso" (Å²).

    Raises
    ------
    Rejection
        For every row that gives no crystal.
    """
    row = _mapping(row, "structure")
    lattice = _mapping(row.get("lattice"), "lattice", "no_cell").get("matrix")
    sites = row.get("sites") or []
    _check_number(len(sites), limits)
    symbols, positions, occupancy, u_iso = [], [], [], []
    for site in sites:
        for species in _mapping(site, "site").get("species") or []:
            amount = species.get("occu", 1.0) if isinstance(species, Mapping) else None
            if not isinstance(amount, int | float):
                raise Rejection("bad_occupancy", f"a site has the species {species!r}")
            if amount == 0:
                continue
            symbols.append(species.get("element"))
            positions.append(site.get("abc"))
            occupancy.append(amount)
            u_iso.append((site.get("properties") or {}).get("u_iso") or 0.0)
    return _crystal(lattice, symbols, positions, occupancy, u_iso, limits, id, source, cartesian=False)


def crystal_from_lemat(row: Any, limits: Limits, *, id: str = "", source: str = "") -> Crystal:
    """From LeMat-Bulk's columns: `lattice_vectors` and `cartesian_site_positions` in Å, `species_at_sites`.

    Raises
    ------
    Rejection
        For every row that gives no crystal.
    """
    row = _mapping(row, "row")
    lattice, positions, symbols = (row.get(column) for column in LEMAT_COLUMNS)
    symbols = symbols or []
    n = len(symbols)
    return _crystal(lattice, symbols, positions, [1.0] * n, [0.0] * n, limits, id, source, cartesian=True)


def _crystal(
    lattice: Any, symbols: list[Any], positions: Any, occupancy: list[float], u_iso: list[float], limits: Limits,
    id: str, source: str, *, cartesian: bool,
) -> Crystal:  # fmt: skip
    _check_number(len(symbols), limits)
    vectors = _floats(lattice, (3, 3), "no_cell" if lattice is None else "bad_cell", "the lattice vectors")
    if not symbols:
        raise Rejection("no_atoms", "the row lists no atoms")
    xyz = _floats(positions, (len(symbols), 3), "bad_coordinates", "the coordinates")
    volume = float(np.linalg.det(vectors))
    if abs(volume) < 1e-3:
        raise Rejection("bad_cell", f"the lattice vectors span {abs(volume):.2g} Å³")
    if abs(volume) > limits.max_volume:
        raise Rejection("too_large", f"the cell has {abs(volume):.0f} Å³, the limit is {limits.max_volume:.0f}")
    # left-handed axes are turned to their opposites: the hand of the crystal stays
    fractions = np.sign(volume) * (xyz @ np.linalg.inv(vectors) if cartesian else xyz)
    known = [_element(symbol) for symbol in symbols]
    amounts = _floats(occupancy, (len(symbols),), "bad_occupancy", "the occupancies")
    if amounts.min() <= 0 or amounts.max() > 1.001:
        raise Rejection("bad_occupancy", f"occupancies from {amounts.min():g} to {amounts.max():g}")
    _check_distances(fractions, amounts, vectors)
    try:
        return Crystal(
            cell=_parameters(vectors), numbers=np.array([z for z, _ in known]), positions=fractions,
            occupancy=np.minimum(amounts, 1.0), isotopes=np.array([isotope for _, isotope in known]),
            u_iso=np.array(u_iso, float), id=id, source=source,
        )  # fmt: skip
    except ValueError as error:
        raise Rejection("bad_cell", str(error)) from error


def _parameters(vectors: Floats) -> Floats:
    """(6,) edges in Å and angles in degrees of the rows of (3, 3)."""
    edges = np.linalg.norm(vectors, axis=1)
    b_c, c_a, a_b = (float(vectors[i] @ vectors[j] / (edges[i] * edges[j])) for i, j in ((1, 2), (2, 0), (0, 1)))
    return np.array([*edges, *np.degrees(np.arccos(np.clip([b_c, c_a, a_b], -1, 1)))])


def _check_distances(fractions: Floats, occupancy: Floats, vectors: Floats) -> None:
    # the nearest image by rounding is the nearest of all while planes of lattice points are over 2 * _NEAREST apart
    n = len(fractions)
    for first in range(0, n, _ROWS):
        delta = fractions[first : first + _ROWS, None] - fractions[None]
        near = (((delta - np.rint(delta)) @ vectors) ** 2).sum(-1) < _NEAREST**2
        worst = int((near @ occupancy).argmax())
        shared = float(near[worst] @ occupancy)
        if shared > 1.01 and near[worst].sum() > 1:
            raise Rejection("clash", f"atoms within {_NEAREST} Å of one another whose occupancies add up to {shared:g}")


def _element(symbol: Any) -> tuple[int, int]:
    """Atomic number, and mass number (0: the natural mixture)."""
    text = symbol.strip() if isinstance(symbol, str) else ""
    if text in _ISOTOPES:
        return 1, _ISOTOPES[text]
    # LeMat and some dicts write oxidation states: Fe3+
    letters = text.rstrip("0123456789+-.")
    element = gemmi.Element(letters)
    if element.atomic_number == 0 or element.name != letters:
        raise Rejection("unknown_element", f"{symbol!r} is no element")
    return int(element.atomic_number), 0


def _floats(values: Any, shape: tuple[int, ...], code: str, what: str) -> Floats:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise Rejection(code, f"{what} are not numbers, or not all there") from error
    if array.shape != shape or not np.isfinite(array).all():
        raise Rejection(code, f"{what} should be {shape} finite numbers, and are {array.shape}")
    return array


def _mapping(value: Any, what: str, code: str = "syntax") -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Rejection(code, f"the {what} is {type(value).__name__}, not keys and values")
    return value


def _check_number(n: int, limits: Limits) -> None:
    if n > limits.max_atoms:
        raise Rejection("too_large", f"{n} atoms, the limit is {limits.max_atoms}")
