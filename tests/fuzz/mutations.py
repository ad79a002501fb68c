"""Real files, damaged in the ways that files get damaged, and in a few that somebody means badly.

Mutation i of a corpus under a seed is always the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

MOST_BYTES = 2_000_000

NUMBERS = (
    b"0", b"-0", b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e-320", b"1e999", b"9" * 400,
    b"0." + b"0" * 400 + b"1",
    b"1(2)", b"1.(", b"1(999999999999)", b".", b"?", b"-", b"+", b"1/0", b"1/3", b"0x10", b"2147483648", b"-1",
    b"18446744073709551616", b"90", b"180", b"360", b"1e5", b"1e-9", b"1,5", b"1 ",
)  # fmt: skip
WORDS = (
    b"data_", b"loop_", b"save_", b"_cell_length_a", b"_atom_site_fract_x", b"_symmetry_equiv_pos_as_xyz", b"'x,y,z'",
    b"'-x+1/2,y,z'", b"'x+y+z,x,x'", b"';\n", b"\n;", b";\n", b"'", b'"', b"#", b"\x00", b"\xff\xfe", b"\xc3\x28",
    b"\r", b"global_", b"stop_", b"'P 1'", b"'F m -3 m'", b"'P 1 21/c 1'", b"225", b"C1+", b"Xx", b"D", b"?", b"[1",
    b"{", b'"""',
)  # fmt: skip

_TELLING = (b"_cell_", b"_symm", b"_space", b"_atom", b"_chemical_formula_sum", b"'x", b"'-x", b" x", b"x,")

Mutation = Callable[[bytes, np.random.Generator, Sequence[bytes]], bytes]


def mutated(corpus: Sequence[bytes], seed: int, i: int, gentle: Sequence[Mutation] = ()) -> bytes:
    """Mutation `i`: a file of the corpus after one to four changes, mostly `gentle` ones (without: those of CIFs)."""
    gentle = gentle or GENTLE
    rng = np.random.default_rng((seed, i))
    content = corpus[int(rng.integers(len(corpus)))]
    # a file that is no CIF any more ends at the first door: most are to come further
    kinds = (*gentle, *HARSH) if rng.random() < 0.25 else gentle
    for _ in range(int(rng.integers(1, 5))):
        content = kinds[int(rng.integers(len(kinds)))](content, rng, corpus)[:MOST_BYTES]
    return content


def _piece(content: bytes, rng: np.random.Generator, most: int = 400) -> tuple[int, int]:
    start = int(rng.integers(len(content) + 1))
    return start, min(len(content), start + int(rng.integers(1, most)))


def flip(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9)) if changed else 0):
        changed[int(rng.integers(len(changed)))] = int(rng.integers(256))
    return bytes(changed)


def cut(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    start, end = _piece(content, rng)
    return content[:start] + content[end:]


def truncate(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def repeat(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    start, end = _piece(content, rng)
    return content[:end] + content[start:end] * int(rng.choice([1, 2, 10, 500])) + content[end:]


def splice(content: bytes, rng: np.random.Generator, corpus: Sequence[bytes]) -> bytes:
    other = corpus[int(rng.integers(len(corpus)))]
    start, end = _piece(other, rng, 4000)
    at = int(rng.integers(len(content) + 1))
    return content[:at] + other[start:end] + content[at:]


def lines(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """A line goes, comes twice, or changes places with another."""
    rows = content.split(b"\n")
    i, j = (int(k) for k in rng.integers(len(rows), size=2))
    match int(rng.integers(3)):
        case 0:
            del rows[i]
        case 1:
            rows.insert(j, rows[i])
        case _:
            rows[i], rows[j] = rows[j], rows[i]
    return b"\n".join(rows)


def number(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """A word becomes a number that hurts."""
    return _replaced(content, rng, lambda _: NUMBERS[int(rng.integers(len(NUMBERS)))])


def word(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """A word becomes one that means something."""
    return _replaced(content, rng, lambda _: WORDS[int(rng.integers(len(WORDS)))])


def other_word(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """A word becomes another word of the file."""

    def of(rows: list[bytes]) -> bytes:
        theirs = rows[aim(rows, rng)].split() or [b"?"]
        return theirs[int(rng.integers(len(theirs)))]

    return _replaced(content, rng, of)


def digit(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """A digit becomes another, or a sign or a point moves in."""
    rows = content.split(b"\n")
    i = aim(rows, rng)
    places = [k for k, c in enumerate(rows[i]) if chr(c) in "0123456789.-+/"]
    if places:
        k = places[int(rng.integers(len(places)))]
        rows[i] = rows[i][:k] + bytes([int(rng.choice(list(b"0123456789.-+/")))]) + rows[i][k + 1 :]
    return b"\n".join(rows)


def column(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """The same word of some following lines becomes one number: a whole column of a loop."""
    rows = content.split(b"\n")
    first, place = aim(rows, rng), int(rng.integers(8))
    value = NUMBERS[int(rng.integers(len(NUMBERS)))]
    for i in range(first, min(len(rows), first + int(rng.integers(2, 60)))):
        words = rows[i].split()
        if place < len(words):
            words[place] = value
            rows[i] = b" ".join(words)
    return b"\n".join(rows)


def _replaced(content: bytes, rng: np.random.Generator, new: Callable[[list[bytes]], bytes]) -> bytes:
    rows = content.split(b"\n")
    i = aim(rows, rng)
    words = rows[i].split()
    if words:
        # of `_tag value` the value, and seldom the tag
        words[
            int(rng.integers(len(words))) if rng.random() < 0.1 else -int(rng.integers(max(1, len(words) - 1))) - 1
        ] = new(rows)
    rows[i] = b" ".join(words)
    return b"\n".join(rows)


def aim(rows: Sequence[bytes], rng: np.random.Generator) -> int:
    """A line, mostly one that says something about the crystal: a tag of it, or a row of numbers."""
    for i in rng.integers(len(rows), size=12):
        row = rows[i]
        if row.startswith(_TELLING) or (len(row.split()) > 3 and sum(48 <= c <= 57 for c in row) > len(row) // 4):
            return int(i)
    return int(rng.integers(len(rows)))


def insert(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    at = int(rng.integers(len(content) + 1))
    what = WORDS[int(rng.integers(len(WORDS)))] if rng.random() < 0.7 else rng.bytes(int(rng.integers(1, 200)))
    return content[:at] + what + content[at:]


GENTLE: tuple[Mutation, ...] = (number, number, other_word, digit, digit, column, lines, word)
HARSH: tuple[Mutation, ...] = (flip, cut, truncate, repeat, splice, insert)
MUTATIONS: tuple[Mutation, ...] = (*GENTLE, *HARSH)
