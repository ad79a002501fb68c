"""A short run of what `python -m tests.fuzz.fuzz` does at length, and that it would notice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phaseray.config import Limits
from phaseray.crystal import Crystal, Rejection
from phaseray.sources import read_cif
from tests.fuzz import fuzz, reflections
from tests.fuzz.mutations import MUTATIONS, mutated
from tests.pipeline.conftest import SALT

SEED = 20261122


@pytest.fixture(scope="module")
def corpus() -> list[bytes]:
    """Written here, so that the test needs no data: a salt, and a molecule with displacements and operators."""
    operators = "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'-x,-y,-z'\n'-x,y+1/2,-z+1/2'\n'x,-y+1/2,z+1/2'\n"
    rows = "".join(
        f"C{i} C 0.{i}1(2) 0.{i}5 0.{9 - i}7(1) 0.0{i + 2} Uiso {'0.5' if i > 5 else '1'} {i % 3}\n"
        for i in range(1, 9)
    )
    molecule = (
        "data_molecule\n_cell_length_a 9.1(2)\n_cell_length_b 12.4\n_cell_length_c 10.2\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 101.3(1)\n_cell_angle_gamma 90\n_chemical_formula_sum 'C6.5'\n" + operators + "loop_\n"
        + "".join(
            f"_atom_site_{tag}\n"
            for tag in (
                "label", "type_symbol", "fract_x", "fract_y", "fract_z", "U_iso_or_equiv", "adp_type", "occupancy",
                "disorder_group",
            )
        )
        + rows
    )  # fmt: skip
    files = [SALT.encode(), molecule.encode()]
    assert all(isinstance(read_cif(content), Crystal) for content in files[:1])
    return files


def test_damaged_files_are_read_or_rejected(corpus: list[bytes]):
    tally = fuzz.run_apart("cif", corpus, SEED, range(800))
    assert tally.findings == []
    assert sum(tally.outcomes.values()) == 800
    assert tally.outcomes["read"] > 50  # most damage must reach what lies behind the parser
    assert len(tally.outcomes) > 8


def test_damaged_real_files_are_read_or_rejected(shared_data: Path, tmp_path: Path):
    import tarfile

    for name in ("cif", "bad"):
        with tarfile.open(shared_data / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path, filter="data")
    tally = fuzz.run_apart("cif", fuzz.corpus_of(tmp_path), SEED, range(800))
    assert tally.findings == []


def test_damaged_reflection_files_are_read_or_refused(shared_data: Path, tmp_path: Path):
    import tarfile

    with tarfile.open(shared_data / "measured.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    small = {f.parent.name for f in tmp_path.rglob("original*") if f.stat().st_size < 100_000}
    folders = [f for f in tmp_path.rglob("*") if f.name in small]
    tally = fuzz.run_apart("reflections", fuzz.corpus_of(*folders, reader="reflections"), SEED, range(400))
    assert tally.findings == []
    assert sum(tally.outcomes.values()) == 400
    assert tally.outcomes["read"] > 100
    assert len(tally.outcomes) > 4


@given(st.binary(max_size=600) | st.text(alphabet="0123456789 -.+einfa_\n\r;'", max_size=600).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_reflections_or_refused(content: bytes):
    outcome, wrong, _ = fuzz.judge(fuzz.READERS["reflections"], content)
    assert outcome != "raised", wrong


@given(st.binary(max_size=2000) | st.text(max_size=2000).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_rejected(content: bytes):
    outcome, wrong, _ = fuzz.judge(read_cif, content)
    assert outcome not in ("internal", "raised"), wrong


@given(st.sampled_from((*MUTATIONS, *reflections.GENTLE)), st.binary(max_size=300), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_a_mutation_takes_any_bytes(mutation, content: bytes, seed: int):
    assert isinstance(mutation(content, np.random.default_rng(seed), [content]), bytes)


def test_mutations_are_the_same_under_the_same_seed(corpus: list[bytes]):
    assert mutated(corpus, 1, 5) == mutated(corpus, 1, 5)
    assert len({mutated(corpus, 1, i) for i in range(100)}) > 80


def test_what_kills_hangs_or_raises_is_found(corpus: list[bytes], monkeypatch: pytest.MonkeyPatch):
    """The reader dies of file 7, raises at 11, wants 4 GiB at 13 and spins at 17."""
    marked = {mutated(corpus, 1, i): i for i in (7, 11, 13, 17)}
    assert len(marked) == 4

    def read(content: bytes) -> None:
        match marked.get(content):
            case 7:
                os.kill(os.getpid(), signal.SIGKILL)
            case 11:
                raise KeyError("no such thing")
            case 13:
                np.ones(1 << 29)
            case 17:
                begin = time.process_time()
                while time.process_time() < begin + 0.3:
                    pass

    monkeypatch.setattr(fuzz, "SECONDS", 0.1)
    monkeypatch.setitem(fuzz.READERS, "trap", read)
    tally = fuzz.run_apart("trap", corpus, 1, range(20))
    found = {finding["number"]: finding["why"] for finding in tally.findings}
    assert sorted(found) == [7, 11, 13, 17]
    assert "KeyError" in found[11]
    assert "Memory" in found[13]
    assert "took" in found[17]
    assert sum(tally.outcomes.values()) == 20


def test_a_file_over_the_limit_is_refused_before_it_is_parsed():
    with pytest.raises(Rejection) as refused:
        read_cif(b"data_x\n" + b"_cell_length_a 5\n" * 100_000, limits=Limits(max_bytes=1000))
    assert refused.value.code == "too_large"
