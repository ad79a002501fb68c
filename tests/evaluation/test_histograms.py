"""Ranges that people read: round limits, nothing lost."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseray.evaluation import histograms
from phaseray.evaluation.dataset_report import _place


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=50))
def test_every_count_is_in_one_range(values: list[int]):
    rows = histograms.histogram(np.array(values))
    assert sum(n for _, n in rows) == len(values)
    assert len({name for name, _ in rows}) == len(rows) <= 14


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50))
def test_every_volume_is_in_one_range(values: list[float]):
    rows = histograms.histogram(np.array(values))
    assert sum(n for _, n in rows) == len(values)
    assert len({name for name, _ in rows}) == len(rows)


def test_ranges_are_round():
    assert histograms.histogram(np.array([1, 3, 10, 19, 20, 49, 60])) == [
        ("1", 1), ("2–4", 1), ("5–9", 0), ("10–19", 2), ("20–49", 2), ("50–99", 1),
    ]  # fmt: skip
    assert histograms.histogram(np.array([0.31, 0.4, 0.52])) == [
        ("0.30–0.35", 1), ("0.35–0.40", 0), ("0.40–0.45", 1), ("0.45–0.50", 0), ("0.50–0.55", 1),
    ]  # fmt: skip
    assert histograms.histogram(np.array([7, 7])) == [("7", 2)]


def test_resolution_tells_what_was_asked_for_apart():
    assert histograms.resolutions([1.0, 1.0, 1.4, 5.2], 1.0) == [
        ("1 as asked", 2), ("1–2", 1), ("2–3", 0), ("3–4", 0), ("4–5", 0), ("5–6", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 3, 15, 16, 74, 75, 142, 143, 167, 168, 194, 195, 230])
def test_crystal_systems_are_those_of_gemmi(number: int):
    rows = dict(histograms.crystal_systems([number]))
    assert [name for name, n in rows.items() if n] == [gemmi.find_spacegroup_by_number(number).crystal_system_str()]


def test_space_groups_that_are_not_known_are_counted_as_such():
    assert histograms.crystal_systems([0, 225, 0])[-1] == ("not known", 2)
    assert histograms.space_groups([0, 225, 166, 225]) == [("225 Fm-3m", 2), ("166 R-3m", 1)]


def test_an_element_counts_once_a_crystal():
    assert histograms.elements([8, 8, 14, 8], [0, 0, 0, 1]) == [("O", 2), ("Si", 1)]


def test_no_two_elements_share_a_place():
    places = [_place(z) for z in range(1, 104)]
    assert len(set(places)) == 103
    assert _place(1) == (1, 1)
    assert _place(2) == (1, 18)
    assert _place(26) == (4, 8)
    assert _place(71) == (6, 3)
    assert _place(92) == (10, 6)
