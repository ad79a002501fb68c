"""A measured crystal: its list of reflections with what that file, and those beside it, say of cell, symmetry, formula.

A SHELX .hkl file holds nothing but reflections. What they belong to is in the instructions of the same name (.ins,
.res), or in a CIF.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from numpy.typing import ArrayLike

from phaseray.crystal import Floats, orthogonalization_matrix
from phaseray.diffraction.ambiguity import space_group as named_space_group
from phaseray.sources.cif_space_group import value_of
from phaseray.sources.reflections import (
    _MOST_BYTES,
    _MOST_INDEX,
    Kind,
    Reflections,
    _reflections,
    parse_cif,
    parse_shelx,
)

_BESIDE = (".ins", ".res", ".cif", ".fcf")
_ITEMS = ("cell", "space_group", "formula", "wavelength")
_EDGES, _ANGLES = ("length_a", "length_b", "length_c"), ("angle_alpha", "angle_beta", "angle_gamma")
_SYMBOLS = ("_space_group_name_H-M_alt", "_symmetry_space_group_name_H-M", "_space_group_name_H-M")
_HALL = ("_space_group_name_Hall", "_symmetry_space_group_name_Hall")
_TRIPLETS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
_MEASURED = tuple(f"_refln_{name}" for name in ("F_squared_meas", "intensity_meas", "F_meas", "F_meas_au"))
_LISTS_INSIDE = ("_shelx_hkl_file", "_iucr_refine_reflections_details")
_INSTRUCTIONS_INSIDE = ("_shelx_res_file", "_iucr_refine_instructions_details")
_CENTRINGS = {
    1: (), 2: ("x+1/2,y+1/2,z+1/2",), 3: ("x+2/3,y+1/3,z+1/3", "x+1/3,y+2/3,z+2/3"),
    4: ("x,y+1/2,z+1/2", "x+1/2,y,z+1/2", "x+1/2,y+1/2,z"), 5: ("x,y+1/2,z+1/2",), 6: ("x+1/2,y,z+1/2",),
    7: ("x+1/2,y+1/2,z",),
}  # fmt: skip
_KINDS: dict[int, Kind] = {3: "F", 4: "F2"}
_LEAST_EDGE, _MOST_EDGE = 0.01, 1e5  # Å, far beyond those of any crystal
_SAME = 0.02  # of an edge: what cells of one crystal, and edges that symmetry makes equal, may differ by
_SHORTEST, _LONGEST = 0.2, 100.0  # Å, of the spacings that single crystals are measured to
_REFLECTION = re.compile(r"(?: *[-+]?\d+){3} *[-+]?[\d.]")  # how a list begins, of fixed columns or with blanks between


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
    origins : dict of str
        Where each of "cell", "space_group", "formula" and "wavelength" that is known comes from: the name of a file,
        or "given".
    """

    reflections: Reflections
    cell: Floats
    space_group: gemmi.SpaceGroup | None
    formula: str | None
    wavelength: float | None
    origins: dict[str, str]


@dataclass(frozen=True, eq=False)
class Instructions:
    """What a SHELX .ins or .res file says before its atoms, and how its reflections are to be read.

    Attributes
    ----------
    cell : (6,) float64 or None
        Å and degrees.
    wavelength : float or None
        Å.
    lattice : int
        LATT: 1 to 7 for P, I, R (obverse, hexagonal axes), F, A, B, C; below zero without a centre of symmetry.
    operations : tuple of str
        SYMM: x', y', z' with commas between.
    formula : str or None
        The contents of the cell, from SFAC and UNIT.
    hklf : int or None
        3 for lists of F, 4 for F²; None where the file does not say.
    matrix : (3, 3) float64 or None
        By which indices in the list are multiplied to become those of the cell; None where they are.
    """

    cell: Floats | None
    wavelength: float | None
    lattice: int
    operations: tuple[str, ...]
    formula: str | None
    hklf: int | None
    matrix: Floats | None

    def space_group(self) -> gemmi.SpaceGroup:
        """Of the operations, the centring and the centre. ValueError if the table has no such group."""
        centre = ("-x,-y,-z",) if self.lattice > 0 else ()
        found = _group_of(("x,y,z", *self.operations, *centre, *_CENTRINGS[abs(self.lattice)]))
        if found is None:
            said = "; ".join(self.operations) or "no SYMM"
            raise ValueError(
                f"LATT {self.lattice} and SYMM ({said[:200]}) make no space group that is known: give --space-group"
            )
        return found


@dataclass(frozen=True, eq=False)
class _Said:
    """What one file says."""

    file: str
    cell: Floats | None = None
    space_group: gemmi.SpaceGroup | None = None
    formula: str | None = None
    wavelength: float | None = None
    hklf: int | None = None
    matrix: Floats | None = None


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
    is the one that is used, within 2 %, or that has none; a matrix of HKLF only with that cell.

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
        known["cell"] = _checked(cell, "the cell that is given")
    if space_group is not None:
        known["space_group"] = named_space_group(int(space_group) if space_group.strip().isdecimal() else space_group)
    if formula is not None:
        known["formula"] = None if formula.strip().lower() == "none" else formula
    origins.update((name, "given") for name, value in known.items() if value is not None)
    wanted = {name for name in _ITEMS if name not in known}

    reflections, said, is_shelx = _read_list(path, kind, known.get("cell"))
    looked_at = [said]
    _learn(said, path, known, origins)
    hklf = said if said.hklf is not None else None
    for other in _beside(path):
        if wanted <= known.keys() and (hklf is not None or not is_shelx):
            break
        said = _read_beside(other, known.get("cell"), "space_group" not in known)
        looked_at.append(said)
        _learn(said, other, known, origins)
        hklf = said if hklf is None and said.hklf is not None else hklf
    if "cell" not in known:
        raise ValueError(f"{path}: {_no_cell(path, looked_at[1:])}")

    if is_shelx and hklf is not None:
        reflections = _as_hklf_says(reflections, hklf, path, kind, known["cell"])
    group = known.get("space_group")
    if group is not None:
        group = _setting(group, known["cell"]) if space_group is not None and ":" not in space_group else group
        _check_fit(group, known["cell"], path)
    _check_spacings(reflections, known["cell"], path)
    return Experiment(reflections, known["cell"], group, known.get("formula"), known.get("wavelength"), origins)


def parse_shelx_instructions(text: str) -> Instructions:
    """The text of an .ins or .res file, up to HKLF or END.

    An element of SFAC that is none makes the formula None, as UNIT with nothing but zeros does.

    Raises
    ------
    ValueError
        CELL, LATT or HKLF that cannot be read. Whether there is such a cell is not looked at, and whether there is
        such a group only by `Instructions.space_group`.
    """
    cell: Floats | None = None
    wavelength: float | None = None
    lattice = 1
    operations: list[str] = []
    elements: list[str] = []
    amounts: list[float] = []
    hklf: tuple[int | None, Floats | None] = (None, None)
    for name, words in _lines(text):
        if name == "CELL":
            numbers = _numbers("CELL", words, 7)
            wavelength = numbers[0] if numbers[0] > 0 else None
            cell = np.array(numbers[1:7])
        elif name == "LATT":
            lattice = int(_numbers("LATT", words, 1)[0])
            if abs(lattice) not in _CENTRINGS:
                raise ValueError(f"LATT {lattice} is no lattice of SHELX (1 to 7, and below zero without a centre)")
        elif name == "SYMM":
            operations.append(" ".join(words))
        elif name == "SFAC":
            # the long form has one element and its form factor
            elements += words[:1] if len(words) > 1 and _is_number(words[1]) else words
        elif name == "UNIT":
            amounts += [float(word) for word in words if _is_number(word)]
        elif name == "HKLF":
            hklf = _hklf(words)
    return Instructions(cell, wavelength, lattice, tuple(operations), _contents(elements, amounts), *hklf)


def _lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """The instructions in capitals, each with its words; those that go on are joined."""
    joined = ""
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        # a line that begins with a blank is a comment, unless the one before goes on in it
        if not joined and (not line.strip() or line[0].isspace()):
            continue
        upper = line.upper()
        if not joined and upper.startswith(("TITL", "REM")):
            continue
        content, goes_on, _ = upper.partition("!")[0].partition("=")
        joined += " " + content
        if goes_on:
            continue
        words, joined = joined.split(), ""
        if words and words[0] == "END":
            return
        if words:
            yield words[0], words[1:]
        if words and words[0] == "HKLF":
            return


def _numbers(name: str, words: list[str], least: int) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) < least or not np.isfinite(numbers).all():
        said = " ".join([name, *words])[:80]
        raise ValueError(f"{said!r} has not the {least} number{'s' if least > 1 else ''} of {name}")
    return numbers


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False


def _hklf(words: list[str]) -> tuple[int | None, Floats | None]:
    """|n|, the sign says only where the list is, and the matrix, unless it leaves indices as they are."""
    numbers = _numbers("HKLF", words, 1) if words else [0.0]
    if 2 < len(numbers) < 11:
        raise ValueError(f"HKLF {' '.join(words)} has no matrix of nine numbers")
    matrix = np.array(numbers[2:11]).reshape(3, 3) if len(numbers) > 2 else np.eye(3)
    if abs(matrix).max() > 100 or matrix[0] @ np.cross(matrix[1], matrix[2]) < 1e-6:
        raise ValueError(f"the matrix of HKLF {' '.join(words)} is none by which axes are changed")
    return abs(int(numbers[0])) or None, None if np.array_equal(matrix, np.eye(3)) else matrix


def _contents(elements: list[str], amounts: list[float]) -> str | None:
    total: dict[str, float] = {}
    for label, amount in zip(elements, amounts, strict=False):
        letters = re.match("[A-Z]*", label.removeprefix("$"))
        symbol = letters[0].capitalize() if letters else ""
        if amount > 0:
            total[symbol] = total.get(symbol, 0.0) + amount
    if any(gemmi.Element(symbol).atomic_number == 0 or gemmi.Element(symbol).name != symbol for symbol in total):
        return None
    return " ".join(f"{symbol}{amount:g}" for symbol, amount in total.items()) or None


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path}: over {_MOST_BYTES >> 20} MiB, which no file of one crystal needs")
    return content


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _read_list(path: Path, kind: Kind | None, cell: Floats | None) -> tuple[Reflections, _Said, bool]:
    """The reflections, what their file says, and whether they are lines of SHELX, of which HKLF says what they hold."""
    content = _content(path)
    try:
        if content.startswith(b"MTZ "):
            return *_of_mtz(path, len(content)), False
        text = _text(content)
        # programs write items of a CIF below the list of an .hkl file
        if _REFLECTION.match(text.lstrip()) or "data_" not in text.lower():
            return parse_shelx(text, kind or "F2"), _Said(path.name), True
        reflections = parse_cif(text)
        said, is_shelx = _of_cif(text, path.name, cell)
        if is_shelx and kind is not None:
            reflections = replace(reflections, kind=kind)
        return reflections, said, is_shelx
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _beside(path: Path) -> list[Path]:
    """Files of the same name, in the order in which they count."""
    names = [path.with_suffix(case) for suffix in _BESIDE for case in (suffix, suffix.upper())]
    return [other for other in names if other.name != path.name and other.is_file()]


def _read_beside(path: Path, cell: Floats | None, wants_group: bool) -> _Said:
    text = _text(_content(path))
    try:
        if path.suffix.lower() in (".cif", ".fcf"):
            return _of_cif(text, path.name, cell)[0]
        found = parse_shelx_instructions(text)
        group = found.space_group() if wants_group and found.cell is not None else None
        return _Said(path.name, found.cell, group, found.formula, found.wavelength, found.hklf, found.matrix)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _learn(said: _Said, path: Path, known: dict[str, Any], origins: dict[str, str]) -> None:
    """Puts what one file says where nothing is known yet."""
    for name in _ITEMS:
        value = getattr(said, name)
        if value is None or name in known:
            continue
        if name == "cell":
            value = _checked(value, f"{path}: the cell")
        elif name == "space_group" and said.cell is not None and not _agree(said.cell, known["cell"]):
            continue
        known[name], origins[name] = value, said.file


def _no_cell(path: Path, looked_at: list[_Said]) -> str:
    if looked_at:
        return f"the cell is neither in the file nor in {' or '.join(s.file for s in looked_at)} beside it: give --cell"
    *names, last = (other.name for s in _BESIDE if (other := path.with_suffix(s)).name != path.name)
    return f"the cell is not in the file and there is no {', '.join(names)} or {last} beside it: give --cell"


def _as_hklf_says(reflections: Reflections, said: _Said, path: Path, kind: Kind | None, cell: Floats) -> Reflections:
    assert said.hklf is not None
    if said.hklf not in _KINDS:
        what = {2: "of a Laue camera", 5: "of a twin", 6: "of a twin"}.get(said.hklf, "of another form")
        raise ValueError(
            f"{path}: HKLF {said.hklf} in {said.file} says that the reflections are {what}, which are not handled: "
            "give a list for HKLF 4, of one domain and one wavelength"
        )
    hkl = reflections.hkl
    kept = np.arange(len(hkl))
    if said.matrix is not None and said.cell is not None and _agree(said.cell, cell):
        turned = hkl @ said.matrix.T
        # of a smaller cell: what lies between its lattice points is no reflection of it
        hkl = np.rint(turned).astype(np.int64)
        kept = np.flatnonzero((abs(turned - hkl) < 0.1).all(1))
        if not len(kept):
            raise ValueError(f"{path}: the matrix of HKLF in {said.file} leaves no index whole")
    sigma = reflections.sigma
    return Reflections(
        hkl[kept], reflections.value[kept], None if sigma is None else sigma[kept], kind or _KINDS[said.hklf]
    )


def _of_cif(text: str, file: str, given: Floats | None) -> tuple[_Said, bool]:
    """What a CIF says of the crystal of its first list, and whether that is lines of SHELX.

    The block of the list counts first. Blocks with another cell are of other crystals.
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
    hklf: tuple[int | None, Floats | None] = (None, None)
    if blocks and (inside := value_of(blocks[0], *_INSTRUCTIONS_INSIDE)):
        hklf = next((_hklf(words) for name, words in _lines(inside) if name == "HKLF"), hklf)
    group, formula, wavelength = None, None, None
    for block, own in zip(blocks, cells, strict=True):
        if cell is not None and own is not None and not _agree(own, cell):
            continue
        group = group or _group_in(block, cell)
        formula = formula or " ".join(value_of(block, "_chemical_formula_sum").split()) or None
        lengths = (gemmi.cif.as_number(value) for value in block.find_values("_diffrn_radiation_wavelength"))
        wavelength = wavelength or next((length for length in lengths if 0 < length < np.inf), None)
    return _Said(file, cell, group, formula, wavelength, *hklf), bool(lines and not loops)


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
    if all(_agree(cell, cells[0]) for cell in cells[1:]):
        return cells[0] if cells else None
    if given is None:
        raise ValueError("its blocks have different cells, and none is in the block of the reflections: give --cell")
    return next((cell for cell in cells if _agree(cell, given)), given)


def _group_in(block: gemmi.cif.Block, cell: Floats | None) -> gemmi.SpaceGroup | None:
    """By the symbol, else the Hall symbol, else the operations, which also tell settings of a symbol apart."""
    triplets = next((t for tag in _TRIPLETS if (t := [gemmi.cif.as_string(v) for v in block.find_values(tag)])), [])
    by_operations = _group_of(triplets)
    # P2(1)/c and P2_1/c are how older programs write P21/c
    symbol = re.sub(r"[()_]", "", value_of(block, *_SYMBOLS))
    alpha, gamma = (0.0, 0.0) if cell is None else cell[[3, 5]].tolist()
    named = gemmi.find_spacegroup_by_name(symbol, alpha, gamma) if symbol else None
    if named is None and (hall := value_of(block, *_HALL)):
        named = _group_of_hall(hall)
    if named is None or (by_operations is not None and by_operations.number == named.number):
        return by_operations
    return named


def _group_of(triplets: Iterable[str]) -> gemmi.SpaceGroup | None:
    """The group of the table that these generate; None if there is none."""
    try:
        distinct = dict.fromkeys(gemmi.Op(triplet).wrap().triplet() for triplet in triplets)
        if not distinct:
            return None
        # gemmi wants the identity, and nothing twice
        operations = gemmi.GroupOps([gemmi.Op(triplet) for triplet in dict.fromkeys(("x,y,z", *distinct))])
        operations.add_missing_elements()
    except (RuntimeError, ValueError):
        return None
    return gemmi.find_spacegroup_by_ops(operations)


def _group_of_hall(symbol: str) -> gemmi.SpaceGroup | None:
    try:
        return gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(symbol))
    except (RuntimeError, ValueError):
        return None


def _of_mtz(path: Path, size: int) -> tuple[Reflections, _Said]:
    """Intensities, else amplitudes with deviations (calculated ones have none), else the mean of Friedel pairs."""
    try:
        mtz = gemmi.read_mtz_file(str(path), with_data=False)
        # a header that lies would have memory reserved for what is not there
        if mtz.nreflections < 0 or 4 * mtz.nreflections * len(mtz.columns) > size:
            raise ValueError("the file is shorter than its header says")
        mtz = gemmi.read_mtz_file(str(path))
        types = "".join(column.type[:1] or " " for column in mtz.columns)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"not an MTZ file that can be read: {error}") from None
    if not types.startswith("HHH"):
        raise ValueError("the first columns of the MTZ file are not h, k and l")
    kind, values, sigmas = _columns(types)
    with np.errstate(invalid="ignore"):  # of NaN with odd bits
        table = np.array(mtz.array, np.float64).reshape(-1, len(types))
    # what is missing is NaN in most files, else the number that the header says
    table[:, 3:][table[:, 3:] == mtz.valm] = np.nan
    value, n = _mean(table[:, values])
    if sigmas:
        squares, m = _mean(table[:, sigmas] ** 2)
        sigma = np.sqrt(squares / m)
    else:
        sigma = np.full(len(table), np.nan)
    if not (abs(table[:, :3]) < _MOST_INDEX).all():
        raise ValueError("the MTZ file has indices that no reflection of a crystal has")
    rows = np.column_stack([np.rint(table[:, :3]), value, sigma])[n > 0]
    wavelength = mtz.datasets[-1].wavelength if len(mtz.datasets) else 0.0
    cell = np.array(mtz.cell.parameters) if mtz.cell.is_crystal() else None
    said = _Said(path.name, cell, mtz.spacegroup, None, wavelength if 0 < wavelength < np.inf else None)
    return _reflections([tuple(row) for row in rows.tolist()], kind), said


def _columns(types: str) -> tuple[Kind, list[int], list[int]]:
    """What to read of an MTZ file with columns of these types: the kind, the columns of values and of deviations."""
    found = re.search("J[^JFGK]*?Q", types)
    if found or "J" in types:
        return "F2", [types.index("J") if found is None else found.start()], [found.end() - 1] if found else []
    if found := re.search("F[^JFGK]*?Q", types):
        return "F", [found.start()], [found.end() - 1]
    pairs: tuple[tuple[Kind, str, str], ...] = (("F2", "K", "M"), ("F", "G", "L"))
    for kind, letter, deviation in pairs:
        values = [i for i, t in enumerate(types) if t == letter][:2]
        if values:
            sigmas = [i for i, t in enumerate(types) if t == deviation and i > values[0]][:2]
            return kind, values, sigmas if len(sigmas) == len(values) else []
    raise ValueError("the MTZ file has no measured intensities (J, K) or amplitudes (F with Q, G)")


def _mean(columns: Floats) -> tuple[Floats, Floats]:
    """(n,) means of what is there in each row, NaN where nothing is, and of how many."""
    there = ~np.isnan(columns)
    n = there.sum(1).astype(np.float64)
    return np.where(there, columns, 0.0).sum(1) / np.where(n > 0, n, np.nan), n


def _checked(cell: ArrayLike, what: str) -> Floats:
    """(6,) float64, of a cell that can be. ValueError says of `what` is wrong."""
    try:
        found = np.array(cell, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is not six numbers (a b c in Å, α β γ in degrees): {cell!r}") from None
    if found.shape != (6,):
        raise ValueError(f"{what} is {found.size} numbers; six are wanted: a b c in Å, α β γ in degrees")
    said = f"{what} ({_as_words(found)})"
    if not (np.isfinite(found).all() and (found > 0).all()):
        raise ValueError(f"{said} has numbers that are not above zero")
    if found[:3].min() < _LEAST_EDGE or found[:3].max() > _MOST_EDGE:
        raise ValueError(f"{said} has edges that no crystal has; they are in Å")
    cosines = np.cos(np.radians(found[3:]))
    if (found[3:] >= 180).any() or 1 - cosines @ cosines + 2 * cosines.prod() <= 1e-6:
        raise ValueError(f"{said} has angles that do not close a cell")
    return found


def _as_words(cell: Floats) -> str:
    return " ".join(f"{value:g}" for value in cell)


def _metric(cell: Floats) -> Floats:
    """(3, 3) in Å²."""
    matrix = orthogonalization_matrix(cell)
    return matrix.T @ matrix


def _change(metric: Floats, other: Floats) -> float:
    """By what share of the edges two cells differ, in their edges or in the cosines between them."""
    edges = np.sqrt(np.diag(metric))
    # a square changes by twice the share of its edge
    return float((abs(other - metric) / np.outer(edges, edges)).max() / 2)


def _agree(cell: Floats, other: Floats) -> bool:
    try:
        metrics = [_metric(_checked(each, "a cell")) for each in (cell, other)]
    except ValueError:
        return False
    return _change(*metrics) <= _SAME


def _setting(group: gemmi.SpaceGroup, cell: Floats) -> gemmi.SpaceGroup:
    """A rhombohedral group that is named without its axes has those of the cell."""
    if group.ext not in ("H", "R"):
        return group
    return gemmi.find_spacegroup_by_name(group.hm, *cell[[3, 5]].tolist()) or group


def _check_fit(group: gemmi.SpaceGroup, cell: Floats, path: Path) -> None:
    metric = _metric(cell)
    rotations = np.array([operation.rot for operation in group.operations().sym_ops]) / gemmi.Op.DEN
    change = max(_change(metric, rotation.T @ metric @ rotation) for rotation in rotations)
    if not change <= _SAME:
        raise ValueError(
            f"{path}: the space group {group.xhm()} does not fit the cell {_as_words(cell)}: its symmetry would change "
            f"that by {change:.0%}; give --cell or --space-group"
        )


def _check_spacings(reflections: Reflections, cell: Floats, path: Path) -> None:
    hkl = reflections.hkl[reflections.hkl.any(1)]
    squares = np.einsum("ni,ij,nj->n", hkl, np.linalg.inv(_metric(cell)), hkl)
    d = 1 / np.sqrt(squares)
    if not ((d >= _SHORTEST) & (d <= _LONGEST)).any():
        raise ValueError(
            f"{path}: the cell {_as_words(cell)} does not belong to the reflections: none of them would have a spacing "
            f"of {_SHORTEST:g} to {_LONGEST:g} Å"
        )
