"""SHELX instructions (.ins, .res): cell, symmetry, contents, and how the list of reflections is to be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import gemmi
import numpy as np

from phaseray.crystal import Floats
from phaseray.sources.reflections import Kind, Reflections

_CENTRINGS = {
    1: (), 2: ("x+1/2,y+1/2,z+1/2",), 3: ("x+2/3,y+1/3,z+1/3", "x+1/3,y+2/3,z+2/3"),
    4: ("x,y+1/2,z+1/2", "x+1/2,y,z+1/2", "x+1/2,y+1/2,z"), 5: ("x,y+1/2,z+1/2",), 6: ("x+1/2,y,z+1/2",),
    7: ("x+1/2,y+1/2,z",),
}  # fmt: skip
_KINDS: dict[int, Kind] = {3: "F", 4: "F2"}


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
        found = group_of_operations(("x,y,z", *self.operations, *centre, *_CENTRINGS[abs(self.lattice)]))
        if found is None:
            said = "; ".join(self.operations) or "no SYMM"
            raise ValueError(
                f"LATT {self.lattice} and SYMM ({said[:200]}) make no space group that is known: give --space-group"
            )
        return found


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


def hklf_in(text: str) -> tuple[int | None, Floats | None]:
    """What HKLF says in the text of an .ins or .res file: its number and its matrix, as in `Instructions`."""
    return next((_hklf(words) for name, words in _lines(text) if name == "HKLF"), (None, None))


def as_hklf_says(
    reflections: Reflections, hklf: int, matrix: Floats | None, *, file: str, kind: Kind | None = None
) -> Reflections:
    """Reflections of lines of SHELX as HKLF says that they are meant.

    Parameters
    ----------
    hklf, matrix
        As in `Instructions`. Without a matrix the indices stay.
    file : str
        Where HKLF stands, for what is said of it.
    kind : "F2" or "F", optional
        What the list holds, whatever HKLF says.

    Raises
    ------
    ValueError
        Lists of twins (5, 6), of a Laue camera (2) or of another form, or a matrix that leaves no index whole.
    """
    if hklf not in _KINDS:
        what = {2: "of a Laue camera", 5: "of a twin", 6: "of a twin"}.get(hklf, "of another form")
        raise ValueError(
            f"HKLF {hklf} in {file} says that the reflections are {what}, which are not handled: "
            "give a list for HKLF 4, of one domain and one wavelength"
        )
    hkl = reflections.hkl
    kept = np.arange(len(hkl))
    if matrix is not None:
        turned = hkl @ matrix.T
        # of a smaller cell: what lies between its lattice points is no reflection of it
        hkl = np.rint(turned).astype(np.int64)
        kept = np.flatnonzero((abs(turned - hkl) < 0.1).all(1))
        if not len(kept):
            raise ValueError(f"the matrix of HKLF in {file} leaves no index whole")
    sigma = reflections.sigma
    return Reflections(hkl[kept], reflections.value[kept], None if sigma is None else sigma[kept], kind or _KINDS[hklf])


def group_of_operations(triplets: Iterable[str]) -> gemmi.SpaceGroup | None:
    """The group of the table that these triplets (x, y+1/2, -z) generate; None if there is none."""
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
