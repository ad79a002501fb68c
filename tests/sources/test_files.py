"""Listing and reading inputs: every input ends as a crystal or a reason, and no input ends the process."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phaseray.config import CifSource, Limits, PrototypesSource, SyntheticSource
from phaseray.crystal import Crystal, Rejection
from phaseray.sources import (
    fetch_inputs,
    files,
    list_inputs,
    parse_input,
    prototypes,
    read_input,
    read_inputs,
    synthetic_crystal,
)
from phaseray.sources.files import InputRef

NAMES = [f"folder/{element}.cif" for element in ("Fe", "Cu", "Al", "W", "Au")]


def cif(element: str = "Fe", comment: str = "") -> bytes:
    return f"""data_{element}
{comment}
_cell_length_a 4.0
_cell_length_b 5.0
_cell_length_c 6.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_symmetry_equiv_pos_as_xyz
x,y,z
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{element}1 {element} 0.1 0.2 0.3
{element}2 {element} 0.6 0.7 0.8
""".encode()


def element_of(name: str) -> str:
    return Path(name).stem


def tar_of(contents: list[tuple[str, bytes]], compression: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, content in contents:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(contents: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in contents:
            archive.writestr(name, content)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def listed(path: Path, pattern: str = "*.cif") -> list[InputRef]:
    return list(list_inputs(CifSource(path=str(path), pattern=pattern), 0))


FIVE = [(name, cif(element_of(name))) for name in NAMES]
ARCHIVES = {
    "five.tar": tar_of(FIVE),
    "five.tar.gz": tar_of(FIVE, "gz"),
    "five.tar.xz": tar_of(FIVE, "xz"),
    "five.tar.bz2": tar_of(FIVE, "bz2"),
    "five.zip": zip_of(FIVE),
    "lzma.zip": zip_of(FIVE, zipfile.ZIP_LZMA),
    "named_like_nothing": tar_of(FIVE, "xz"),
}


# -- what is there ---------------------------------------------------------------------------


def test_a_single_file(tmp_path: Path):
    path = write(tmp_path / "iron.cif", cif())
    (ref,) = listed(path)
    assert ref == InputRef("iron.cif", "cif", str(path), size=len(cif()))
    crystal = read_input(ref)
    assert crystal.formula == "Fe2"
    assert crystal.id == "iron.cif"


def test_a_folder_is_searched_through_in_the_order_of_names(tmp_path: Path):
    for name in ("b.cif", "a/z.cif", "a/b/c.cif", "A.CIF", "._b.cif", "notes.txt"):
        write(tmp_path / "top" / name, cif())
    ids = [ref.id for ref in listed(tmp_path / "top")]
    assert ids == ["top/A.CIF", "top/b.cif", "top/a/z.cif", "top/a/b/c.cif"]
    assert [ref.id for ref in listed(tmp_path / "top", "a/*.cif")] == ["top/a/z.cif"]
    assert len(listed(tmp_path / "top", "**/*.cif")) == 4
    assert [ref.id for ref in listed(tmp_path / "top", "*.txt")] == ["top/notes.txt"]


def test_ids_do_not_depend_on_how_the_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "top" / "x.cif", cif())
    expected = listed(tmp_path / "top")
    monkeypatch.chdir(tmp_path / "top")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (".", "../top", "../top/", "~/top"):
        assert list(list_inputs(CifSource(path=path), 0)) == expected


def test_links_that_lead_back_are_followed_once(tmp_path: Path):
    top = tmp_path / "top"
    write(top / "a" / "x.cif", cif())
    (top / "a" / "up").symlink_to(top)
    (top / "b").symlink_to(top / "a")
    elsewhere = write(tmp_path / "elsewhere" / "y.cif", cif()).parent
    (top / "c").symlink_to(elsewhere)
    assert [ref.id for ref in listed(top)] == ["top/a/x.cif", "top/c/y.cif"]


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_read_in_place_and_member_by_member(tmp_path: Path, name: str):
    path = write(tmp_path / "in" / name, ARCHIVES[name])
    refs = listed(path)
    assert [ref.id for ref in refs] == [f"{name}/{n}" for n in NAMES]
    assert [ref.member for ref in refs] == NAMES
    assert {ref.uri for ref in refs} == {str(path)}
    assert [ref.size for ref in refs] == [len(content) for _, content in FIVE]
    for ref, crystal, sha256 in read_inputs(reversed(refs)):
        assert isinstance(crystal, Crystal)
        assert crystal.formula == f"{element_of(ref.member)}2"
        assert crystal.id == ref.id
        assert sha256 == hashlib.sha256(dict(FIVE)[ref.member]).hexdigest()
    assert read_input(refs[3]).formula == "W2"
    assert os.listdir(tmp_path) == ["in"]
    assert os.listdir(tmp_path / "in") == [name]


def test_a_tar_is_gone_through_once_and_no_further_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "many.tar.gz", tar_of([(f"{i}.cif", cif()) for i in range(50)], "gz"))
    refs = listed(path)
    headers = []
    next_header = tarfile.TarFile.next
    monkeypatch.setattr(tarfile.TarFile, "next", lambda self: headers.append(1) or next_header(self))
    found = [ref.index for ref, *_ in fetch_inputs([refs[20], refs[3], refs[11]])]
    assert found == [3, 11, 20]
    assert len(headers) <= 22


def test_only_regular_files_of_an_archive_are_listed(tmp_path: Path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in [("d.cif", tarfile.DIRTYPE), ("l.cif", tarfile.SYMTYPE), ("p.cif", tarfile.FIFOTYPE)]:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)
        header = tarfile.TarInfo("x.cif")
        header.size = len(cif())
        archive.addfile(header, io.BytesIO(cif()))
    refs = listed(write(tmp_path / "odd.tar", buffer.getvalue()))
    assert [ref.id for ref in refs] == ["odd.tar/x.cif"]
    assert read_input(refs[0]).formula == "Fe2"


def test_member_names_lead_nowhere(tmp_path: Path):
    evil = ["../../up.cif", "/etc/root.cif", "..\\win.cif", "new\nline.cif", "a/./b.cif"]
    for path in (
        write(tmp_path / "evil.tar", tar_of([(name, cif()) for name in evil])),
        write(tmp_path / "evil.zip", zip_of([(name, cif()) for name in evil])),
    ):
        refs = listed(path)
        rests = ["up.cif", "etc/root.cif", "win.cif", "new_line.cif", "a/b.cif"]
        assert [ref.id for ref in refs] == [f"{path.name}/{rest}" for rest in rests]
        assert all(isinstance(crystal, Crystal) for _, crystal, _ in read_inputs(refs))


def test_members_of_one_name_are_all_read(tmp_path: Path):
    same = [("x.cif", cif("Fe")), ("x.cif", cif("Cu")), ("./x.cif", cif("Au"))]
    refs = listed(write(tmp_path / "same.tar", tar_of(same)))
    assert [ref.id for ref in refs] == ["same.tar/x.cif", "same.tar/x.cif#2", "same.tar/x.cif#3"]
    assert [crystal.formula for _, crystal, _ in read_inputs(refs)] == ["Fe2", "Cu2", "Au2"]


def test_names_that_are_not_utf8_do_not_stop_a_run(tmp_path: Path):
    path = os.path.join(os.fsencode(tmp_path), b"top")
    os.mkdir(path)
    try:
        with open(os.path.join(path, b"caf\xe9.cif"), "wb") as file:
            file.write(cif())
    except OSError:
        pytest.skip("this file system keeps names in UTF-8")
    write(tmp_path / "names.tar", tar_of([("caf\udce9.cif", cif())]))
    in_folder, in_tar = [*listed(tmp_path / "top"), *listed(tmp_path / "names.tar")]
    pa.Table.from_pylist([asdict(in_folder), asdict(in_tar)])
    assert read_input(in_tar).formula == "Fe2"
    with pytest.raises(Rejection, match="unreadable"):
        read_input(in_folder)


# -- generated crystals ----------------------------------------------------------------------


def test_prototypes_and_artificial_crystals():
    source = SyntheticSource(count=5, edge=(4, 6))
    refs = list(list_inputs([PrototypesSource(), source], seed=11))
    assert [ref.id for ref in refs[:288]] == list(prototypes.names())[:288]
    assert [ref.id for ref in refs[-5:]] == [f"synthetic/11/{i}" for i in range(5)]
    crystal = read_input(refs[-2])
    np.testing.assert_array_equal(crystal.positions, synthetic_crystal(source, 11, 3).positions)
    assert read_input(refs[17]).id == refs[17].id == prototypes.prototype(17).id
    assert {sha256 for *_, sha256 in read_inputs(refs[-9:])} == {""}


def test_ids_are_unique_in_a_run(tmp_path: Path):
    for folder in ("one", "two"):
        write(tmp_path / folder / "cif" / "x.cif", cif())
    sources = [CifSource(path=str(tmp_path / folder / "cif")) for folder in ("one", "two", "one")]
    synthetic = SyntheticSource(count=3)
    refs = list(list_inputs([*sources, synthetic, synthetic.model_copy(update={"edge": (5.0, 6.0)})], 0))
    assert [ref.id for ref in refs[:3]] == ["cif/x.cif", "cif/x.cif#2", "cif/x.cif#3"]
    assert [ref.id for ref in refs[6:]] == [f"synthetic/0/{i}#2" for i in range(3)]
    assert [crystal.id for _, crystal, _ in read_inputs(refs)] == [ref.id for ref in refs]


def test_limits_hold_for_generated_crystals_too():
    ref = next(list_inputs(SyntheticSource(edge=(8, 8)), 0))
    for limits in (Limits(max_atoms=1), Limits(max_volume=10)):
        with pytest.raises(Rejection, match="too_large"):
            read_input(ref, limits)


# -- what goes wrong -------------------------------------------------------------------------


def test_a_path_that_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(ValueError, match=r"there is no CIF source .*nowhere: check `path`"):
        listed(tmp_path / "nowhere")


def test_a_folder_or_archive_without_a_match_says_so(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"nothing in .*empty matches '\*.cif'"):
        listed(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"nothing in .*five.zip matches '\*.res'"):
        listed(write(tmp_path / "five.zip", ARCHIVES["five.zip"]), "*.res")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        listed(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["five.tar", "five.tar.gz", "five.tar.xz", "five.tar.bz2", "five.zip"])
def test_an_archive_cut_short_is_refused_when_listed(tmp_path: Path, name: str):
    content = ARCHIVES[name]
    # a tar is padded with zeros after its end
    end = len(content) if name != "five.tar" else 5 * 2 * 512
    path = write(tmp_path / name, content[: end - 300])
    with pytest.raises(ValueError, match=rf"cannot list the CIF source .*{name}.*Get it again"):
        listed(path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path):
    content = bytearray(ARCHIVES["five.tar"])
    content[2 * 1024 + 5] ^= 0xFF
    with pytest.raises(ValueError, match="damaged after 2 members"):
        listed(write(tmp_path / "five.tar", bytes(content)))


def test_an_archive_that_breaks_after_listing_gives_a_reason_for_each_input(tmp_path: Path):
    path = write(tmp_path / "five.tar", ARCHIVES["five.tar"])
    refs = listed(path)
    path.write_bytes(ARCHIVES["five.tar"][:2500])
    results = {ref.id: result for ref, result, _ in read_inputs(refs)}
    assert set(results) == {ref.id for ref in refs}
    assert [type(results[ref.id]) for ref in refs] == [Crystal, Crystal, Rejection, Rejection, Rejection]
    assert {results[ref.id].code for ref in refs[2:]} == {"unreadable"}
    path.unlink()
    assert {result.code for _, result, _ in read_inputs(refs)} == {"unreadable"}
    path.write_bytes(tar_of([("other.cif", cif())] * 5))
    for _, result, _ in read_inputs(refs):
        assert result.code == "unreadable"
        assert "changed since it was listed" in result.sentence


def test_one_bad_member_leaves_the_others(tmp_path: Path):
    content = bytearray(zip_of(FIVE, zipfile.ZIP_STORED))
    content[content.find(b"data_Al") + 100] ^= 0xFF
    results = [result for _, result, _ in read_inputs(listed(write(tmp_path / "five.zip", bytes(content))))]
    assert [type(r) for r in results] == [Crystal, Crystal, Rejection, Crystal, Crystal]
    assert results[2].code == "unreadable"
    assert "CRC" in results[2].sentence


def test_a_file_that_cannot_be_read_is_a_rejection(tmp_path: Path):
    top = tmp_path / "top"
    write(top / "good.cif", cif())
    (top / "gone.cif").symlink_to(tmp_path / "nowhere.cif")
    os.mkfifo(top / "pipe.cif")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(top / "s.cif"))
    server.close()
    results = {ref.id: result for ref, result, _ in read_inputs(listed(top))}
    assert isinstance(results.pop("top/good.cif"), Crystal)
    assert len(results) == 3
    assert {result.code for result in results.values()} == {"unreadable"}


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, partial(lzma.compress, preset=0), bz2.compress, partial(pa.compress, codec="zstd", asbytes=True)],
    ids=["gz", "xz", "bz2", "zst"],
)
def test_a_compressed_bomb_is_a_rejection_and_costs_no_memory(tmp_path: Path, compress):
    """100 MB of blanks in a member, 200 MB in a header: the process must not grow by 60 MB."""
    blanks = b" " * 100_000_000
    bomb = tarfile.TarInfo("bomb.cif")
    bomb.size = len(blanks)
    content = compress(bomb.tobuf() + blanks + bytes(-len(blanks) % 512) + tar_of([("good.cif", cif())]))
    write(tmp_path / "bomb.tar", content)
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2 * len(blanks)
    write(tmp_path / "header.tar", compress(header.tobuf() + blanks * 2))
    del blanks
    code = f"""
import resource
from phaseray.config import CifSource
from phaseray.crystal import Rejection
from phaseray.sources import list_inputs, read_inputs
import phaseray.sources.cif
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refs = list(list_inputs(CifSource(path={str(tmp_path / "bomb.tar")!r}), 0))
results = [result for _, result, _ in read_inputs(refs)]
assert results[0].code == "too_large", results[0]
assert results[1].formula == "Fe2"
try:
    list(list_inputs(CifSource(path={str(tmp_path / "header.tar")!r}), 0))
    raise SystemExit("listed")
except ValueError as error:
    assert "bytes long" in str(error), error
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
assert grown < 60_000, f"grew by {{grown}} kB"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_member_larger_than_it_says_is_a_rejection(tmp_path: Path, method: int):
    content = zip_of([("bomb.cif", b" " * 40_000_000)], method)
    limits = Limits(max_bytes=1_000_000)
    (ref,) = listed(write(tmp_path / "bomb.zip", content))
    with pytest.raises(Rejection, match="too_large"):
        read_input(ref, limits)
    lying = content.replace((40_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    write(tmp_path / "bomb.zip", lying)
    with pytest.raises(Rejection, match=r"unreadable|too_large"):
        read_input(ref, limits)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path):
    (ref,) = listed(write(tmp_path / "long.cif", cif(comment="#" * 5000)))
    assert read_input(ref, Limits(max_bytes=6000)).formula == "Fe2"
    with pytest.raises(Rejection, match=r"more than 5000 bytes: raise limits\.max_bytes"):
        read_input(ref, Limits(max_bytes=5000))


def test_gzipped_cif_files_are_read(tmp_path: Path):
    write(tmp_path / "top" / "x.cif.gz", gzip.compress(cif()))
    write(tmp_path / "top" / "bomb.cif.gz", gzip.compress(b" " * 30_000_000))
    write(tmp_path / "top" / "cut.cif.gz", gzip.compress(cif())[:-20])
    bomb, cut, good = [result for _, result, _ in read_inputs(listed(tmp_path / "top", "*.cif.gz"))]
    assert good.formula == "Fe2"
    assert bomb.code == "too_large"
    assert cut.code == "unreadable"


def test_an_encrypted_member_is_a_rejection(tmp_path: Path):
    content = bytearray(zip_of([("x.cif", cif())]))
    content[6] |= 1  # the flag in the local header
    content[content.find(b"PK\x01\x02") + 8] |= 1  # and in the directory
    (ref,) = listed(write(tmp_path / "secret.zip", bytes(content)))
    with pytest.raises(Rejection, match=r"unreadable.*password"):
        read_input(ref)


def test_an_unforeseen_error_is_a_rejection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import phaseray.sources.cif

    def fail(*_args, **_known):
        raise ZeroDivisionError("a bug")

    path = write(tmp_path / "five.zip", ARCHIVES["five.zip"])
    monkeypatch.setattr(phaseray.sources.cif, "read_cif", fail)
    monkeypatch.setattr(files, "synthetic_crystal", fail)
    sources = [CifSource(path=str(path)), SyntheticSource(count=2)]
    results = [result for _, result, _ in read_inputs(list_inputs(sources, 0))]
    assert len(results) == 7
    assert {result.code for result in results} == {"internal"}
    assert "ZeroDivisionError: a bug" in results[0].sentence


def test_a_file_that_is_no_cif_is_the_parsers_to_refuse(tmp_path: Path):
    for content in (b"", b"\x00" * 2000, b"hello", bytes(range(256)) * 10):
        (ref,) = listed(write(tmp_path / "x.cif", content))
        with pytest.raises(Rejection) as caught:
            read_input(ref)
        assert caught.value.code != "internal"


# -- references ------------------------------------------------------------------------------


def test_references_are_rows_of_a_parquet_file(tmp_path: Path):
    path = write(tmp_path / "five.zip", ARCHIVES["five.zip"])
    refs = list(list_inputs([PrototypesSource(), SyntheticSource(count=3), CifSource(path=str(path))], 2))
    pq.write_table(pa.Table.from_pylist([asdict(ref) for ref in refs]), tmp_path / "refs.parquet")
    assert [InputRef(**row) for row in pq.read_table(tmp_path / "refs.parquet").to_pylist()] == refs
    assert {field.type for field in fields(InputRef)} == {"str", "int"}
    assert pickle.loads(pickle.dumps(refs)) == refs
    assert json.loads(refs[288].params)["seed"] == 2


def test_bytes_can_be_fetched_without_parsing(tmp_path: Path):
    path = write(tmp_path / "x.cif", b"no CIF at all")
    ((ref, content, sha256),) = fetch_inputs(listed(path))
    assert content == b"no CIF at all"
    assert parse_input(ref, content).code == "syntax"
    assert sha256 == hashlib.sha256(content).hexdigest()


def test_the_shared_archive_is_read_to_its_end(shared_data: Path):
    refs = listed(shared_data / "cif.tar.xz")
    assert len(refs) == len({ref.id for ref in refs}) == 2311
    sizes = [(ref.size, len(content)) for ref, content, _ in fetch_inputs(refs)]
    assert all(size == length for size, length in sizes)
