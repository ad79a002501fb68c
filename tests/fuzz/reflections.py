"""Reflection files for fuzz.py: what they are cut from, how they are damaged, and what a reader must hold to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from phaseray.sources.reflections import Merged, Reflections, merge, parse
from tests.fuzz.mutations import NUMBERS, Mutation, aim, column, digit, lines, other_word

FILES = ("reflections.hkl", "original*")  # of a folder of measured sets
SHORT = 9  # files with most of their lists left out, beside each whole one: a list of 10,000 lines tells little more
ROWS = 150

WORDS = (
    b"   0   0   0    0.00    0.00   0", b"  -1   2-100-9999.99 9999.99   1", b"1 0 0 66731.690 1334.634 1", b"HKLF 4",
    b"TITL", b"END", b"data_", b"loop_", b"_refln_index_h", b"_refln_index_k", b"_refln_index_l", b"_refln_F_meas",
    b"_refln_F_squared_meas", b"_refln_F_squared_sigma", b"_refln_intensity_meas", b"_refln_include_status",
    b"_refln_observed_status", b"_shelx_hkl_file\n;", b"_iucr_refine_reflections_details\n;", b";", b"_shelx_fab_file",
    b"o", b"x", b"<", b"?", b".", b"'", b"\x00", b"\xff", b"\r", b"\t",
)  # fmt: skip
GROUPS = ("P 1", "P 1 21/c 1", "I 4/m m m")
# how `parse` and `merge` say no
SENTENCES = re.compile(
    r"line \d+ is no reflection|an index of|it holds no (measured )?reflection|not a CIF that can be read|"
    r"the (value|sigma) of reflection|no reflection is allowed by the space group"
)


def read(content: bytes) -> str:
    """As from a file, then merged: "read", or the sentence that said no. Any other error, and bad numbers, go up."""
    text = content.decode("utf-8", errors="replace")
    try:
        found = parse(text, "F" if len(content) % 4 == 0 else "F2")
        check(found)
        check_merged(merge(found, GROUPS[len(content) % len(GROUPS)]))
    except ValueError as error:
        if not (said := SENTENCES.match(str(error))):
            raise RuntimeError(f"no sentence of ours: {error}") from error
        return re.sub(r"\d+", "…", said[0])
    return "read"


def check(found: Reflections) -> None:
    assert found.hkl.shape == (len(found), 3)
    assert (abs(found.hkl) < 10_000).all()
    assert np.isfinite(found.value).all()
    if found.sigma is not None:
        assert (found.sigma > 0).all()
        assert np.isfinite(found.sigma).all()


def check_merged(merged: Merged) -> None:
    assert len(merged.hkl) == len(merged.amplitude) > 0
    assert np.isfinite(merged.amplitude).all()
    assert (merged.amplitude >= 0).all()
    assert merged.sigma is None or (np.isfinite(merged.sigma).all() and (merged.sigma > 0).all())
    assert merged.r_int is None or merged.r_int >= 0


def shortened(corpus: Sequence[bytes]) -> list[bytes]:
    """Every file with reflections whole, and `SHORT` times with only `ROWS` lines in a row of each of its lists."""
    rng = np.random.default_rng(0)
    found: list[bytes] = []
    for content in corpus:
        if read(content) == "read":
            lists = list(_lists(content.split(b"\n")))
            found += [content, *(_short(lists, rng) for _ in range(SHORT))]
    return found


def _lists(rows: list[bytes]) -> Iterator[list[bytes]]:
    """Lines that are rows of a list together, the others alone."""
    for is_row, group in groupby(rows, lambda r: len(r.split()) > 3 and sum(48 <= c <= 57 for c in r) > len(r) // 4):
        together = list(group)
        yield from [together] if is_row else ([line] for line in together)


def _short(lists: list[list[bytes]], rng: np.random.Generator) -> bytes:
    kept: list[bytes] = []
    for rows in lists:
        start = int(rng.integers(len(rows) - ROWS)) if len(rows) > ROWS else 0
        kept += rows[start : start + ROWS]
    return b"\n".join(kept)


def field(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """A number is written over a word and ends where that ends: fixed columns stay in their places."""
    rows = content.split(b"\n")
    i = aim(rows, rng)
    spans = [word.span() for word in re.finditer(rb"\S+", rows[i])]
    if spans:
        start, end = spans[int(rng.integers(len(spans)))]
        value = NUMBERS[int(rng.integers(len(NUMBERS)))].rjust(end - start)
        rows[i] = rows[i][: max(0, end - len(value))] + value + rows[i][end:]
    return b"\n".join(rows)


def row(content: bytes, rng: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """A line comes in that means something, or takes the place of a word."""
    rows = content.split(b"\n")
    i = aim(rows, rng)
    new = WORDS[int(rng.integers(len(WORDS)))]
    words = rows[i].split()
    if words and rng.random() < 0.5:
        words[int(rng.integers(len(words)))] = new
        rows[i] = b" ".join(words)
    else:
        rows.insert(i, new)
    return b"\n".join(rows)


GENTLE: tuple[Mutation, ...] = (field, field, field, digit, digit, column, lines, other_word, row, row)
