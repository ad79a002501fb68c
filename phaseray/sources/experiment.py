"""A measured crystal: its list of reflections with what that file, and those beside it, say of cell, symmetry, formula.

A SHELX .hkl file holds nothing but reflections. What they belong to is in the instructions of the same name (.ins,
.res), or in a CIF.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gemmi
from numpy.typing import ArrayLike

from phaseray.crystal import Floats
from phaseray.diffraction.ambiguity import space_group as named_space_group
from phaseray.sources.cif_experiment import crystal_data_of_cif
from phaseray.sources.crystal_data import (
    CrystalData,
    cells_agree,
    check_space_group,
    check_spacings,
    checked_cell,
    in_axes_of,
)
from phaseray.sources.mtz import read_mtz
from phaseray.sources.reflections import MOST_BYTES, Kind, Reflections, is_cif, parse_cif, parse_shelx
from phaseray.sources.shelx import as_hklf_says, parse_shelx_instructions

_BESIDE = (".ins", ".res", ".cif", ".fcf")
_ITEMS = ("cell", "space_group", "formula", "wavelength", "radiation")


@dataclass(frozen=True, eq=False)
class Experiment:
    """A measured list of reflections and what is known about its crystal.

    Attributes
    ----------
    reflections : Reflections
    cell : (6,) float64
        a, b, c in Å, then α, β, γ in degrees.
    space_group : gemmi.SpaceGroup or None
    formula : str or None
        As in the file, "C12 H10 N2 O"; from SHELX instructions, the contents of the cell.
    wavelength : float or None
        Å.
    radiation : "x-ray", "neutron", "electron" or None
        As a CIF says; other files do not.
    origins : dict of str
        Where each of "cell", "space_group", "formula", "wavelength" and "radiation" that is known comes from: the name
        of a file, or "given".
    """

    reflections: Reflections
    cell: Floats
    space_group: gemmi.SpaceGroup | None
    formula: str | None
    wavelength: float | None
    radiation: str | None
    origins: dict[str, str]


def read_experiment(
    path: Path | str,
    *,
    kind: Kind | None = None,
    cell: ArrayLike | None = None,
    space_group: str | None = None,
    formula: str | None = None,
) -> Experiment:
    """A file of reflections: SHELX .hkl, CIF, FCF or MTZ, told apart by what is in it.

    What it does not say of its crystal is looked for in files of the same name beside it: .ins, .res, .cif, .fcf, in
    that order. What is given counts more than what any file says. A space group is taken only from a file whose cell
    is the one that is used, within 2 %, or that has none; a matrix of HKLF only with that cell. A CIF beside that is
    wanted for nothing but the radiation may be one that cannot be read.

    Parameters
    ----------
    kind : "F2" or "F", optional
        What the lines of a SHELX list hold. Without it HKLF decides, and F² where there is no HKLF. MTZ and the loops
        of a CIF say themselves what they hold.
    cell : (6,), optional
        Å and degrees.
    space_group : str, optional
        A symbol or a number.
    formula : str, optional
        "none" leaves the formula out, though a file may have one.

    Raises
    ------
    ValueError
        No reflections, no cell, a cell or space group that cannot be, lists of twins (HKLF 5, 6) or of a Laue camera
        (HKLF 2), or a file that cannot be read: which, and what to do.
    OSError
        The file cannot be opened.
    """
    path = Path(path)
    known: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if cell is not None:
        known["cell"] = checked_cell(cell, "the cell that is given")
    if space_group is not None:
        known["space_group"] = named_space_group(int(space_group) if space_group.strip().isdecimal() else space_group)
    if formula is not None:
        known["formula"] = None if formula.strip().lower() == "none" else formula
    origins.update((name, "given") for name, value in known.items() if value is not None)
    wanted = {name for name in _ITEMS if name not in known} - {"radiation"}

    reflections, said, is_shelx = _read_list(path, kind, known.get("cell"))
    looked_at = [said]
    _learn(said, path, known, origins)
    hklf = said if said.hklf is not None else None
    for other in _beside(path):
        enough = wanted <= known.keys() and (hklf is not None or not is_shelx)
        if enough and ("radiation" in known or not _is_named_cif(other)):
            continue
        try:
            said = _read_beside(other, known.get("cell"), "space_group" not in known)
        except (OSError, ValueError):
            if not enough:
                raise
            continue
        looked_at.append(said)
        _learn(said, other, known, origins)
        hklf = said if hklf is None and said.hklf is not None else hklf
    if "cell" not in known:
        raise ValueError(f"{path}: {_no_cell(path, looked_at[1:])}")

    if is_shelx and hklf is not None:
        reflections = _under_hklf(reflections, hklf, path, kind, known["cell"])
    group = known.get("space_group")
    if group is not None:
        group = in_axes_of(group, known["cell"]) if space_group is not None and ":" not in space_group else group
        check_space_group(group, known["cell"], path)
    check_spacings(reflections, known["cell"], path)
    formula, wavelength, radiation = (known.get(name) for name in ("formula", "wavelength", "radiation"))
    return Experiment(reflections, known["cell"], group, formula, wavelength, radiation, origins)


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path}: over {MOST_BYTES >> 20} MiB, which no file of one crystal needs")
    return content


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _read_list(path: Path, kind: Kind | None, cell: Floats | None) -> tuple[Reflections, CrystalData, bool]:
    """The reflections, what their file says, and whether they are lines of SHELX, of which HKLF says what they hold."""
    content = _content(path)
    try:
        if content.startswith(b"MTZ "):
            return *read_mtz(path, len(content)), False
        text = _text(content)
        if not is_cif(text):
            return parse_shelx(text, kind or "F2"), CrystalData(path.name), True
        reflections = parse_cif(text)
        said, is_shelx = crystal_data_of_cif(text, path.name, cell)
        if is_shelx and kind is not None:
            reflections = replace(reflections, kind=kind)
        return reflections, said, is_shelx
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _beside(path: Path) -> list[Path]:
    """Files of the same name, in the order in which they count."""
    names = [path.with_suffix(case) for suffix in _BESIDE for case in (suffix, suffix.upper())]
    return [other for other in names if other.name != path.name and other.is_file()]


def _is_named_cif(path: Path) -> bool:
    return path.suffix.lower() in (".cif", ".fcf")


def _read_beside(path: Path, cell: Floats | None, wants_group: bool) -> CrystalData:
    text = _text(_content(path))
    try:
        if _is_named_cif(path):
            return crystal_data_of_cif(text, path.name, cell)[0]
        found = parse_shelx_instructions(text)
        group = found.space_group() if wants_group and found.cell is not None else None
        return CrystalData(
            path.name, found.cell, group, found.formula, found.wavelength, hklf=found.hklf, matrix=found.matrix
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _learn(said: CrystalData, path: Path, known: dict[str, Any], origins: dict[str, str]) -> None:
    """Puts what one file says where nothing is known yet."""
    for name in _ITEMS:
        value = getattr(said, name)
        if value is None or name in known:
            continue
        if name == "cell":
            value = checked_cell(value, f"{path}: the cell")
        elif name == "space_group" and said.cell is not None and not cells_agree(said.cell, known["cell"]):
            continue
        known[name], origins[name] = value, said.file


def _under_hklf(
    reflections: Reflections, said: CrystalData, path: Path, kind: Kind | None, cell: Floats
) -> Reflections:
    assert said.hklf is not None
    matrix = said.matrix if said.cell is not None and cells_agree(said.cell, cell) else None
    try:
        return as_hklf_says(reflections, said.hklf, matrix, file=said.file, kind=kind)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _no_cell(path: Path, looked_at: list[CrystalData]) -> str:
    if looked_at:
        return f"the cell is neither in the file nor in {' or '.join(s.file for s in looked_at)} beside it: give --cell"
    *names, last = (other.name for s in _BESIDE if (other := path.with_suffix(s)).name != path.name)
    return f"the cell is not in the file and there is no {', '.join(names)} or {last} beside it: give --cell"
