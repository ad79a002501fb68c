"""The copy of a tar: the same bytes, from anywhere in it, at the cost of what is asked for."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phaseray.config import CifSource, Limits
from phaseray.sources import archives, fetch_inputs, list_inputs, read_inputs
from phaseray.sources.files import InputRef
from tests.sources.test_files import ARCHIVES, FIVE, NAMES, cif, tar_of, write, zip_of


def listed(path: Path, spool: Path | None, limits: Limits | None = None) -> list[InputRef]:
    return list(list_inputs(CifSource(path=str(path)), 0, spool=spool, limits=limits))


@pytest.mark.parametrize(
    "name", ["five.tar", "five.tar.gz", "five.tar.xz", "five.tar.bz2", "five.tar.zst", "named_like_nothing"]
)
def test_members_come_from_the_spool_as_from_the_archive(tmp_path: Path, name: str):
    path = write(
        tmp_path / name, ARCHIVES[name] if name in ARCHIVES else bytes(pa.compress(tar_of(FIVE), "zstd", asbytes=True))
    )
    spool = tmp_path / "spool"
    refs = listed(path, spool)
    assert [replace(ref, sha256="") for ref in refs] == listed(path, None)
    assert [ref.sha256 for ref in refs] == [hashlib.sha256(content).hexdigest() for _, content in FIVE]
    direct = list(fetch_inputs(refs))
    assert [content for _, content, _ in direct] == [content for _, content in FIVE]
    path.unlink()
    assert list(fetch_inputs(refs, spool=spool)) == direct
    assert [ref.index for ref, *_ in fetch_inputs([refs[3], refs[1]], spool=spool)] == [1, 3]


def test_a_zip_has_addresses_and_is_not_copied(tmp_path: Path):
    refs = listed(write(tmp_path / "five.zip", ARCHIVES["five.zip"]), tmp_path / "spool")
    assert not (tmp_path / "spool").exists()
    assert len(list(read_inputs(refs, spool=tmp_path / "spool"))) == 5


def test_the_directory_of_a_zip_is_read_once_however_many_parts_there_are(tmp_path, monkeypatch: pytest.MonkeyPatch):
    refs = listed(write(tmp_path / "five.zip", ARCHIVES["five.zip"]), None)
    opened = []
    zip_file = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda *given: opened.append(1) or zip_file(*given))
    assert [content for ref in refs for _, content, _ in fetch_inputs([ref])] == [content for _, content in FIVE]
    assert len(opened) <= 1


def test_a_spool_is_made_once_and_again_when_the_archive_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, spool = write(tmp_path / "x.tar.gz", tar_of(FIVE, "gz")), tmp_path / "spool"
    refs = listed(path, spool)
    (copy,) = spool.iterdir()
    before = copy.stat().st_ino
    passes = []
    members = archives.members
    monkeypatch.setattr(archives, "members", lambda *given: passes.append(1) or members(*given))
    assert listed(path, spool) == refs
    assert (len(passes), copy.stat().st_ino) == (0, before)
    path.write_bytes(tar_of(FIVE[:2], "gz"))
    assert [ref.member for ref in listed(path, spool)] == NAMES[:2]
    assert passes == [1]
    assert [p.name for p in spool.iterdir()] == [copy.name]


def test_a_listing_that_was_stopped_leaves_no_spool(tmp_path: Path):
    path, spool = write(tmp_path / "x.tar.gz", tar_of(FIVE, "gz")), tmp_path / "spool"
    listing = list_inputs(CifSource(path=str(path)), 0, spool=spool)
    next(listing)
    listing.close()
    assert list(spool.iterdir()) == []
    path.write_bytes(tar_of(FIVE, "gz")[:-200])
    with pytest.raises(ValueError, match="cannot list"):
        listed(path, spool)
    assert list(spool.iterdir()) == []


def test_only_the_row_groups_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "x.tar.gz", tar_of([(f"{i}.cif", cif()) for i in range(1000)], "gz"))
    spool = tmp_path / "spool"
    refs = listed(path, spool)
    groups = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, **k: groups.append(i) or read(self, i, **k))
    assert len(list(fetch_inputs(refs[600:700], spool=spool))) == 100
    assert len(groups) <= 3


def test_a_bomb_is_listed_and_not_kept(tmp_path: Path):
    content = [("bomb.cif", b" " * 30_000_000), ("good.cif", cif())]
    path, spool, limits = (
        write(tmp_path / "x.tar.xz", tar_of(content, "xz")),
        tmp_path / "spool",
        Limits(max_bytes=10**6),
    )
    refs = listed(path, spool, limits)
    (copy,) = spool.iterdir()
    assert copy.stat().st_size < 10_000
    bomb, good = [result for _, result, _ in read_inputs(refs, limits, spool=spool)]
    assert bomb.code == "too_large"
    assert good.formula == "Fe2"


def test_compressed_cifs_in_folders_and_archives(tmp_path: Path):
    import bz2
    import gzip
    import lzma

    packed = {
        "a.cif.gz": gzip.compress(cif("Fe")),
        "b.cif.xz": lzma.compress(cif("Cu")),
        "c.cif.bz2": bz2.compress(cif("Al")),
        "d.cif.zst": pa.compress(cif("W"), "zstd", asbytes=True),
        "e.txt.gz": gzip.compress(cif("Au")),
    }
    for name, content in packed.items():
        write(tmp_path / "top" / name, content)
    write(tmp_path / "top.zip", zip_of(list(packed.items()), zipfile.ZIP_STORED))
    write(tmp_path / "top.tar", tar_of(list(packed.items())))
    for path in ("top", "top.zip", "top.tar"):
        refs = listed(tmp_path / path, None)
        assert [ref.id for ref in refs] == [f"{path}/{name}" for name in list(packed)[:4]]
        assert [crystal.formula for _, crystal, _ in read_inputs(refs)] == ["Fe2", "Cu2", "Al2", "W2"]
    write(tmp_path / "cut" / "x.cif.zst", packed["d.cif.zst"][:-9])
    write(tmp_path / "cut" / "y.cif.zst", packed["d.cif.zst"][:9] + os.urandom(200))
    assert {result.code for _, result, _ in read_inputs(listed(tmp_path / "cut", None))} == {"unreadable"}


def test_a_zstd_archive_cut_short_is_refused(tmp_path: Path):
    members = [(f"{i}.cif", os.urandom(3000)) for i in range(100)]
    content = bytes(pa.compress(tar_of(members), "zstd", asbytes=True))
    assert len(listed(write(tmp_path / "x.tar.zst", content), None)) == 100
    with pytest.raises(ValueError, match="cannot list"):
        listed(write(tmp_path / "x.tar.zst", content[:-1000]), None)


def test_tarfile_and_the_stream_agree_on_every_kind_of_tar(tmp_path: Path):
    """Long names, empty members and members of whole blocks make tarfile step back in the stream."""
    members = [("n" * 150 + f"/{size}.cif", b"x" * size) for size in (0, 1, 511, 512, 513, 10240, 3_000_000)]
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=format) as archive:
            for name, content in members:
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
        refs = listed(write(tmp_path / "x.tar.gz", buffer.getvalue()), None)
        assert [(ref.member, content) for ref, content, _ in fetch_inputs(refs)] == members
