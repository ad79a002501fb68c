"""Ids made unique in a stream, and pieces of a tree that make the whole."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseray.sources import locations, taken
from phaseray.sources.taken import TakenIds


@given(st.lists(st.sampled_from(["x", "y", "x#2", "y#2", "x#2#2", "z"]), max_size=40))
def test_ids_are_unique_and_the_first_keeps_its_name(ids: list[str]) -> None:
    found = TakenIds()
    unique = [found.unique(id) for id in ids]
    assert len(set(unique)) == len(ids)
    for id in set(ids):
        if id not in unique[: ids.index(id)]:
            assert unique[ids.index(id)] == id


def test_thousands_of_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken, "_RECENT", 64)
    found = TakenIds()
    assert [found.unique(f"a/{i}") for i in range(5000)] == [f"a/{i}" for i in range(5000)]
    assert [found.unique(f"a/{i}") for i in range(0, 5000, 100)] == [f"a/{i}#2" for i in range(0, 5000, 100)]
    assert found.unique("a/7") == "a/7#2"
    assert found.unique("a/7") == "a/7#3"


def test_branches_make_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("z", "a/b/c/d/e/x", "a/b/y", "a/y", "b/x", "c/1/x", "c/2/x", "c/10/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "c" / "back").symlink_to(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    top = str(tmp_path)
    whole = list(locations.walk(top))
    assert [relative for _, relative, _ in whole] == [
        "z", "a/y", "a/b/y", "a/b/c/d/e/x", "b/x", "c/1/x", "c/10/x", "c/2/x",
    ]  # fmt: skip
    for most in (1, 4, 9, 1000):
        monkeypatch.setattr(locations, "_MOST_BRANCHES", most)
        branches = locations.branches(top)
        assert len(branches) <= max(1, most)
        assert [file for branch in branches for file in locations.walk(top, "", branch)] == whole
    assert len(branches) > 8
