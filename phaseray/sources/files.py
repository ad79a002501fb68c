"""What there is to read, as plain references, and reading them one by one: files, folders, archives, generators.

A reference is small and made of strings and integers, so the driver lists, and workers read.
Archives are read in place, in one pass: nothing is unpacked to disk.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import IO, Any

from phaseray.config import CifSource, Limits, PrototypesSource, Source, SyntheticSource
from phaseray.crystal import Crystal, Rejection
from phaseray.sources import prototypes
from phaseray.sources.synthetic import synthetic_crystal

Content = bytes | Crystal | Rejection

_ARCHIVE_NAMES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_DECOMPRESS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"\xfd7zXZ\x00", lzma.open),
    (b"BZh", bz2.open),
)
_DAMAGED = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError)
# zipfile decompresses all that one read takes in: small reads keep a bomb small
_CHUNK = 4096
_LARGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class InputRef:
    """One input, before it is read. Strings and integers only: a row of a Parquet file.

    Attributes
    ----------
    id : str
        Unique in a run, and the same in every run: "cif.tar.xz/amcsd_00015.cif".
    kind : str
        "prototypes", "synthetic" or "cif".
    uri : str
        Absolute path of the file or archive; empty for what is generated.
    member : str
        Name inside the archive; empty for a file of its own.
    index : int
        Number of the prototype or artificial crystal, or place in the archive; else -1.
    size : int
        Bytes, -1 where not known.
    params : str
        JSON of the seed and the source, for artificial crystals; else empty.
    """

    id: str
    kind: str
    uri: str = ""
    member: str = ""
    index: int = -1
    size: int = -1
    params: str = ""


# -- listing ---------------------------------------------------------------------------------


def list_inputs(sources: Source | Iterable[Source], seed: int) -> Iterator[InputRef]:
    """Every input of one source, or of several, in an order that depends on nothing but names.

    Ids begin with the name of the folder or archive. An id that came before gets an ordinal
    ("synthetic/0/3#2"), so hand over all sources of a run at once.

    Raises
    ------
    ValueError
        While iterating: a path that is not there, holds nothing that matches, or is damaged.
    """
    taken: dict[str, int] = {}
    for source in [sources] if isinstance(sources, PrototypesSource | SyntheticSource | CifSource) else sources:
        for ref in _list(source, seed):
            id = ref.id
            while id in taken:
                taken[ref.id] += 1
                id = f"{ref.id}#{taken[ref.id]}"
            taken[id] = 1
            yield ref if id == ref.id else replace(ref, id=id)


def _list(source: Source, seed: int) -> Iterator[InputRef]:
    if isinstance(source, PrototypesSource):
        for index, id in enumerate(prototypes.names()):
            yield InputRef(id, "prototypes", index=index)
    elif isinstance(source, SyntheticSource):
        params = json.dumps({"seed": seed, "source": source.model_dump(mode="json")})
        for index in range(source.count):
            yield InputRef(f"synthetic/{seed}/{index}", "synthetic", index=index, params=params)
    else:
        path = os.path.abspath(os.path.expanduser(source.path))
        if not os.path.exists(path):
            raise ValueError(f"there is no CIF source {path}: check `path` (a file, a folder, a tar or zip archive)")
        found = False
        try:
            for ref in _list_path(path, source.pattern):
                found = True
                yield ref
        except _DAMAGED as error:
            raise ValueError(
                f"cannot list the CIF source {path}: {_reason(error)}. Get it again, or mend it"
            ) from error
        if not found:
            raise ValueError(
                f"nothing in the CIF source {path} matches {source.pattern!r}: check the path or `pattern`"
            )


def _list_path(path: str, pattern: str) -> Iterator[InputRef]:
    mode = os.stat(path).st_mode
    name = os.path.basename(path)
    if stat.S_ISDIR(mode):
        for file in _walk(path):
            relative = os.path.relpath(file, path)
            if _matches(relative, pattern):
                size = os.stat(file).st_size if os.path.exists(file) else -1
                yield InputRef(_tidy(f"{name}/{relative}"), "cif", _utf8(file), size=size)
    elif not stat.S_ISREG(mode):
        raise OSError("neither a file nor a folder")
    elif _is_archive(path):
        for member in _members(path):
            if _matches(member.name, pattern):
                yield InputRef(_tidy(f"{name}/{member.name}"), "cif", path, member.name, member.index, member.size)
    else:
        yield InputRef(_tidy(name), "cif", _utf8(path), size=os.stat(path).st_size)


def _walk(top: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    visited = set()
    for folder, subfolders, files in os.walk(top, onerror=fail, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in visited:  # a link that leads back
            subfolders.clear()
            continue
        visited.add((here.st_dev, here.st_ino))
        subfolders.sort()
        for file in sorted(files):
            yield os.path.join(folder, file)


def _matches(name: str, pattern: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/").lower())
    # "._x.cif" is what macOS adds to archives beside x.cif
    return not path.name.startswith("._") and path.match(pattern.lower().removeprefix("**/"))


def _tidy(name: str) -> str:
    """A name fit for an id: no way up, no control characters, valid UTF-8."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "".join(c if c.isprintable() else "_" for c in "/".join(parts))


def _utf8(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# -- archives --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    index: int
    name: str
    size: int
    open: Callable[[], Any]


class _ShortReads:
    """A stream that will not hand out more at once than a tar header may need, whatever the header claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header in it claims to be {size} bytes long")
        return self.stream.read(size)


@contextmanager
def _open_tar(path: str) -> Iterator[tarfile.TarFile]:
    with ExitStack() as stack:
        stream: Any = stack.enter_context(open(path, "rb"))
        start = stream.read(8)
        stream.seek(0)
        for magic, decompress in _DECOMPRESS:
            if start.startswith(magic):
                stream = stack.enter_context(decompress(stream))
        yield stack.enter_context(tarfile.open(fileobj=_ShortReads(stream), mode="r:"))  # type: ignore[call-overload]


def _is_archive(path: str) -> bool:
    if zipfile.is_zipfile(path):
        return True
    named_so = path.lower().endswith(_ARCHIVE_NAMES)
    try:
        with _open_tar(path) as tar:
            return named_so or tar.next() is not None  # nothing but zeros is an empty tar too
    except _DAMAGED:
        if named_so:
            raise
        return False


def _members(path: str) -> Iterator[_Member]:
    """Regular files of an archive, in their order. `open` before asking for the next."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for index, entry in enumerate(archive.infolist()):
                if not entry.is_dir():
                    yield _Member(index, _utf8(entry.filename), entry.file_size, partial(archive.open, entry))
        return
    with _open_tar(path) as tar:
        index = 0
        while (header := tar.next()) is not None:
            if header.isreg():
                yield _Member(index, _utf8(header.name), header.size, partial(tar.extractfile, header))
            tar.members = []  # type: ignore[attr-defined]  # or a million headers stay in memory
            index += 1
        # tarfile takes a damaged header for the end
        stream: Any = tar.fileobj
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"damaged after {index} members")


# -- reading ---------------------------------------------------------------------------------


def read_input(ref: InputRef, limits: Limits | None = None) -> Crystal:
    """The crystal of one reference.

    A member of a tar archive is reached through all that stand before it: use `read_inputs`
    for many.

    Raises
    ------
    Rejection
        Whatever goes wrong, also the unforeseen (code "internal").
    """
    ((_, result, _),) = read_inputs([ref], limits)
    if isinstance(result, Rejection):
        raise result
    return result


def read_inputs(
    refs: Iterable[InputRef], limits: Limits | None = None
) -> Iterator[tuple[InputRef, Crystal | Rejection, str]]:
    """Read many inputs; each archive is gone through once, in its order.

    Yields
    ------
    ref, crystal or rejection, sha256
        `sha256` is that of the bytes read, in hex; "" for what is generated or could not be read.
        Every ref is yielded once: files and generated crystals first, then archive by archive.
        An unforeseen error is a Rejection with the code "internal".
    """
    for ref, content, sha256 in fetch_inputs(refs, limits):
        yield ref, _parse(ref, content, limits) if isinstance(content, bytes) else content, sha256


def fetch_inputs(refs: Iterable[InputRef], limits: Limits | None = None) -> Iterator[tuple[InputRef, Content, str]]:
    """As `read_inputs`, with the bytes of a CIF in place of the crystal, to be parsed elsewhere."""
    limits = limits or Limits()
    archives: dict[str, list[InputRef]] = {}
    for ref in refs:
        if ref.member:
            archives.setdefault(ref.uri, []).append(ref)
        else:
            yield ref, *_with_digest(partial(_read_alone, ref, limits), ref)
    for path, wanted in archives.items():
        yield from _read_archive(path, wanted, limits)


def _parse(ref: InputRef, content: bytes, limits: Limits | None) -> Crystal | Rejection:
    from phaseray.sources.cif import read_cif

    try:
        name = f"{ref.uri}/{ref.member}" if ref.member else ref.uri
        return read_cif(content, limits=limits, id=ref.id, source_name=name)
    except Rejection as rejection:
        return rejection.with_traceback(None)
    except Exception as error:
        return _internal(error, ref.id)


def _read_alone(ref: InputRef, limits: Limits) -> bytes | Crystal:
    if ref.kind == "cif":
        return _read_file(ref, limits.max_bytes)
    if ref.kind == "prototypes":
        crystal = prototypes.prototype(ref.index)
    else:
        crystal = synthetic_crystal(*_synthetic(ref.params), ref.index)
    if crystal.n_atoms > limits.max_atoms or crystal.volume > limits.max_volume:
        size = f"{crystal.n_atoms} atoms in {crystal.volume:.0f} Å³"
        raise Rejection("too_large", f"{ref.id} has {size}: raise limits.max_atoms or limits.max_volume to keep it")
    return replace(crystal, id=ref.id)


@lru_cache(maxsize=64)
def _synthetic(params: str) -> tuple[SyntheticSource, int]:
    known = json.loads(params)
    return SyntheticSource.model_validate(known["source"]), known["seed"]


def _read_file(ref: InputRef, max_bytes: int) -> bytes:
    # a named pipe would be waited for without end
    if not stat.S_ISREG(os.stat(ref.uri).st_mode):
        raise OSError("not a regular file")
    with open(ref.uri, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if is_gzip else file
        return _read_bounded(stream, ref, max_bytes)


def _read_bounded(stream: IO[bytes], ref: InputRef, max_bytes: int) -> bytes:
    parts, size = [], 0
    while part := stream.read(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise _too_large(ref, max_bytes)
    return b"".join(parts)


def _too_large(ref: InputRef, max_bytes: int) -> Rejection:
    return Rejection("too_large", f"{ref.id} has more than {max_bytes} bytes: raise limits.max_bytes to read it")


def _read_archive(path: str, refs: list[InputRef], limits: Limits) -> Iterator[tuple[InputRef, Content, str]]:
    waiting = {ref.index: ref for ref in refs}
    assert len(waiting) == len(refs), "a member asked for twice"

    def read(member: _Member, ref: InputRef) -> bytes:
        if member.size > limits.max_bytes:
            raise _too_large(ref, limits.max_bytes)
        with member.open() as stream:
            return _read_bounded(stream, ref, limits.max_bytes)

    broken = Rejection("unreadable", f"{path} has changed since it was listed: list the inputs again")
    try:
        for member in _members(path):
            if member.index in waiting and waiting[member.index].member == member.name:
                ref = waiting.pop(member.index)
                yield ref, *_with_digest(partial(read, member, ref), ref)
            if not waiting:
                return
    except Exception as error:
        broken = _rejection(error, f"the archive {path}")
    for ref in waiting.values():
        yield ref, broken, ""


def _with_digest(read: Callable[[], bytes | Crystal], ref: InputRef) -> tuple[Content, str]:
    try:
        content = read()
    except Exception as error:
        return _rejection(error, ref.id), ""
    return content, hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""


def _rejection(error: Exception, what: str) -> Rejection:
    if isinstance(error, Rejection):
        return error.with_traceback(None)
    # RuntimeError: a password is needed; NotImplementedError: a zip method unknown here
    if isinstance(error, (*_DAMAGED, RuntimeError, NotImplementedError)):
        return Rejection("unreadable", f"cannot read {what}: {_reason(error)}")
    return _internal(error, what)


def _internal(error: Exception, what: str) -> Rejection:
    return Rejection("internal", f"reading {what} failed with {type(error).__name__}: {error}")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
