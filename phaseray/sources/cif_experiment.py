"""What a CIF with reflections, or one beside them, says of cell, space group, formula and radiation."""

from __future__ import annotations

import re

import gemmi
import numpy as np

from phaseray.crystal import Floats
from phaseray.sources.cif_space_group import value_of
from phaseray.sources.crystal_data import CrystalData, cells_agree
from phaseray.sources.shelx import group_of_operations, hklf_in

_EDGES, _ANGLES = ("length_a", "length_b", "length_c"), ("angle_alpha", "angle_beta", "angle_gamma")
_SYMBOLS = ("_space_group_name_H-M_alt", "_symmetry_space_group_name_H-M", "_space_group_name_H-M")
_HALL = ("_space_group_name_Hall", "_symmetry_space_group_name_Hall")
_TRIPLETS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
_MEASURED = tuple(f"_refln_{name}" for name in ("F_squared_meas", "intensity_meas", "F_meas", "F_meas_au"))
_RADIATIONS = {
    "_diffrn_radiation_probe": {"x-ray": "x-ray", "xray": "x-ray", "neutron": "neutron", "electron": "electron"},
    "_diffrn_radiation_type": {"neutron": "neutron", "electron": "electron"},
}
_LISTS_INSIDE = ("_shelx_hkl_file", "_iucr_refine_reflections_details")
_INSTRUCTIONS_INSIDE = ("_shelx_res_file", "_iucr_refine_instructions_details")


def crystal_data_of_cif(text: str, file: str, given: Floats | None) -> tuple[CrystalData, bool]:
    """What a CIF says of the crystal of its first list, and whether that is lines of SHELX.

    The block of the list counts first. Blocks with another cell are of other crystals.

    Parameters
    ----------
    file : str
        The name of the file.
    given : (6,) or None
        The cell that is known, by which one of several crystals is chosen.

    Raises
    ------
    ValueError
        No CIF, a HKLF inside that cannot be read, or several cells of which none is chosen.
    """
    try:
        document = gemmi.cif.read_string(text)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"not a CIF that can be read: {error}") from None
    blocks = list(document)
    loops = [i for i, block in enumerate(blocks) if _has_loop(block)]
    lines = [i for i, block in enumerate(blocks) if _has_lines(block)]
    first = next(iter(loops or lines), None)
    if first is not None:
        blocks.insert(0, blocks.pop(first))
    cells = [_cell_of(block) for block in blocks]
    cell = None if first is None else cells[0]
    if cell is None:
        cell = _only([c for c in cells if c is not None], given)
    hklf, matrix = hklf_in(value_of(blocks[0], *_INSTRUCTIONS_INSIDE)) if blocks else (None, None)
    group, formula, wavelength, radiation = None, None, None, None
    for block, own in zip(blocks, cells, strict=True):
        if cell is not None and own is not None and not cells_agree(own, cell):
            continue
        group = group or _group_in(block, cell)
        formula = formula or " ".join(value_of(block, "_chemical_formula_sum").split()) or None
        lengths = (gemmi.cif.as_number(value) for value in block.find_values("_diffrn_radiation_wavelength"))
        wavelength = wavelength or next((length for length in lengths if 0 < length < np.inf), None)
        radiation = radiation or _radiation_in(block)
    said = CrystalData(file, cell, group, formula, wavelength, radiation, hklf, matrix)
    return said, bool(lines and not loops)


def _has_loop(block: gemmi.cif.Block) -> bool:
    return any(np.isfinite(gemmi.cif.as_number(v)) for tag in _MEASURED for v in block.find_values(tag))


def _has_lines(block: gemmi.cif.Block) -> bool:
    return any(len(block.find_value(tag) or "") > 100 for tag in _LISTS_INSIDE)


def _cell_of(block: gemmi.cif.Block) -> Floats | None:
    """(6,), or None if not all of it is there. By CIF's dictionary, an angle that is not named is 90°."""
    texts = [block.find_value(f"_cell_{edge}") or "?" for edge in _EDGES]
    texts += [block.find_value(f"_cell_{angle}") or "90" for angle in _ANGLES]
    cell = np.array([gemmi.cif.as_number(gemmi.cif.as_string(text)) for text in texts])
    return cell if np.isfinite(cell).all() else None


def _only(cells: list[Floats], given: Floats | None) -> Floats | None:
    """The cell of blocks without reflections; where they have several, that which is given."""
    if all(cells_agree(cell, cells[0]) for cell in cells[1:]):
        return cells[0] if cells else None
    if given is None:
        raise ValueError("its blocks have different cells, and none is in the block of the reflections: give --cell")
    return next((cell for cell in cells if cells_agree(cell, given)), given)


def _group_in(block: gemmi.cif.Block, cell: Floats | None) -> gemmi.SpaceGroup | None:
    """By the symbol, else the Hall symbol, else the operations, which also tell settings of a symbol apart."""
    triplets = next((t for tag in _TRIPLETS if (t := [gemmi.cif.as_string(v) for v in block.find_values(tag)])), [])
    by_operations = group_of_operations(triplets)
    # P2(1)/c and P2_1/c are how older programs write P21/c
    symbol = re.sub(r"[()_]", "", value_of(block, *_SYMBOLS))
    alpha, gamma = (0.0, 0.0) if cell is None else cell[[3, 5]].tolist()
    named = gemmi.find_spacegroup_by_name(symbol, alpha, gamma) if symbol else None
    if named is None and (hall := value_of(block, *_HALL)):
        named = _group_of_hall(hall)
    if named is None or (by_operations is not None and by_operations.number == named.number):
        return by_operations
    return named


def _radiation_in(block: gemmi.cif.Block) -> str | None:
    """By the probe, else by a type that names one; most types, as "MoK\\a", do not."""
    for tag, words in _RADIATIONS.items():
        said = [gemmi.cif.as_string(value).lower() for value in block.find_values(tag)]
        if found := next((name for value in said for word, name in words.items() if word in value), None):
            return found
    return None


def _group_of_hall(symbol: str) -> gemmi.SpaceGroup | None:
    try:
        return gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(symbol))
    except (RuntimeError, ValueError):
        return None
