"""Which element a site is: from its type symbol, else from its label with the help of the formula."""

from __future__ import annotations

import re
from functools import lru_cache

import gemmi

from phaseray.crystal import Rejection

_SYMBOLS = {gemmi.Element(z).name: z for z in range(1, 119)}
_LETTERS = re.compile(r"[A-Za-z]+")
_TWO_METALS = re.compile(r"([A-Z][a-z])([A-Z][a-z])")
_FORMULA_TOKEN = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?")

Formula = dict[str, float]


@lru_cache(maxsize=4096)
def parse_formula(text: str) -> tuple[frozenset[str], Formula | None]:
    """Elements of a formula such as 'C12 H10 N2', and their amounts where they are certain.

    Groups as in '(K.84 Na.16) Ca4' are plain sums in the files of AMCSD; with a multiplier behind
    the bracket the amounts are left open. D and T keep their names.
    """
    amounts: Formula = {}
    rest = re.sub(r"\(([^()]*)\)(?![\d.n])", r"\1", text)
    for symbol, amount in _FORMULA_TOKEN.findall(rest):
        if symbol not in _SYMBOLS and symbol not in ("D", "T"):
            return frozenset(), None
        amounts[symbol] = amounts.get(symbol, 0.0) + float(amount or 1)
    amounts = {symbol: amount for symbol, amount in amounts.items() if amount > 0}
    leftover = re.sub(r"[\s,~]", "", _FORMULA_TOKEN.sub("", rest))
    certain = not leftover and bool(amounts)
    return frozenset(amounts), amounts if certain else None


@lru_cache(maxsize=4096)
def plain_element(type_symbol: str, formula: frozenset[str]) -> tuple[int, int, str] | None:
    """As `element_of` for a type symbol that says it all ('Fe3+', 'D', 'CL'); None for others."""
    match = _LETTERS.match(type_symbol)
    letters = match[0].title() if match else ""
    if letters == "D":
        return 1, 2, ""
    if letters == "T" and "T" in formula:
        return 1, 3, ""
    return (_SYMBOLS[letters], 0, "") if letters in _SYMBOLS else None


@lru_cache(maxsize=16384)
def element_of(type_symbol: str, label: str, formula: frozenset[str]) -> tuple[int, int, str]:
    """Atomic number, mass number (0: natural mixture) and a remark ('' or why it was not plain).

    Parameters
    ----------
    type_symbol, label : str
        As in the file, '' where it has none. Charges and digits are ignored.
    formula : frozenset of str
        Elements of the formula, empty if it is not known.

    Raises
    ------
    Rejection
        unknown_element
    """
    if plain := plain_element(type_symbol, formula):
        return plain
    for text in (type_symbol, label):
        if match := _LETTERS.match(text):
            found = _from_letters(match[0], text, formula)
            if found:
                return found
    name = f"type {type_symbol!r}, label {label!r}" if type_symbol else f"label {label!r}"
    raise Rejection("unknown_element", f"no element can be told from the site with {name}: give _atom_site_type_symbol")


def _from_letters(letters: str, text: str, formula: frozenset[str]) -> tuple[int, int, str] | None:
    if text.upper() == "H2O":
        return None  # a water, or the second hydrogen of an O
    if letters[:3].lower() == "wat":
        return 8, 0, "water"
    two, one = letters[:2].title(), letters[0].upper()
    if (pair := _TWO_METALS.fullmatch(letters)) and pair[2] in _SYMBOLS and (not formula or pair[2] in formula):
        return None  # 'AlSi': two elements share the site, and how is not said
    candidates = [s for s in dict.fromkeys((two, one)) if s in _SYMBOLS or (s == "D" and one == "D")]
    if formula:
        hydrogen = formula & {"H", "D", "T"}
        for symbol in candidates:
            if symbol in formula or (symbol in ("H", "D") and hydrogen):
                return (1, 2, "") if symbol == "D" else (_SYMBOLS[symbol], 0, "")
        if one == "T" and "T" in formula:
            return 1, 3, ""
        if one == "W" and "O" in formula:
            return 8, 0, "water"
    if not candidates:
        return None
    symbol = candidates[0]
    if symbol == "D":
        return 1, 2, ""
    unsure = len(candidates) == 2 and letters[1].isupper()
    return _SYMBOLS[symbol], 0, f"{text} read as {symbol}" if unsure else ""
