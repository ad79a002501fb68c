"""Members of tar and zip archives, one after the other, without unpacking anything to disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import IO, Any

from phaseray.sources.locations import as_utf8, open_binary, size_and_time

_ARCHIVE_NAMES = (
    ".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst",
)  # fmt: skip
DAMAGED = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError)
_LARGEST_HEADER = 1 << 20
_REMEMBERED = 2 * tarfile.BLOCKSIZE


def _zstd(stream: IO[bytes]) -> Any:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"))


# first bytes of a file, and what opens it
DECOMPRESS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"\xfd7zXZ\x00", lzma.open),
    (b"BZh", bz2.open),
    (b"\x28\xb5\x2f\xfd", _zstd),
)


@dataclass(frozen=True)
class Member:
    """One regular file of an archive. `open` it before asking for the next.

    Attributes
    ----------
    index : int
        Place in the archive.
    name : str
        As the archive has it, in valid UTF-8.
    size : int
        Bytes, as the archive claims.
    open : callable
        A stream of its bytes.
    """

    index: int
    name: str
    size: int
    open: Callable[[], Any]


class _Forwards:
    """A decompressing stream in which tarfile may step back by a block, for which gzip would begin again."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.close = stream, stream.close
        self.at = self.end = 0
        self.last = b""  # the bytes before `end`

    def tell(self) -> int:
        return self.at

    def seek(self, position: int) -> int:
        if position < self.end - len(self.last):
            raise tarfile.ReadError("an archive is read forwards")
        while self.end < position and self._more(min(position - self.end, _LARGEST_HEADER)):
            pass
        self.at = position
        return position

    def read(self, size: int) -> bytes:
        back = max(self.end - self.at, 0)
        content = self.last[len(self.last) - back :][:size]
        while len(content) < size and self.at + len(content) == self.end and (part := self._more(size - len(content))):
            content += part
        self.at += len(content)
        return content

    def _more(self, size: int) -> bytes:
        part: bytes = self.stream.read(size)
        self.end += len(part)
        self.last = (self.last + part)[-_REMEMBERED:] if len(part) < _REMEMBERED else part[-_REMEMBERED:]
        return part


class _ShortReads:
    """A stream that will not hand out more at once than a tar header may need, whatever the header claims."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header in it claims to be {size} bytes long")
        content: bytes = self.stream.read(size)
        return content


@contextmanager
def _open_tar(uri: str, options: str) -> Iterator[tarfile.TarFile]:
    with ExitStack() as stack:
        stream: Any = stack.enter_context(open_binary(uri, options))
        start = stream.read(8)
        stream.seek(0)
        for magic, decompress in DECOMPRESS:
            if start.startswith(magic):
                stream = _Forwards(stack.enter_context(decompress(stream)))
        yield stack.enter_context(tarfile.open(fileobj=_ShortReads(stream), mode="r:"))  # type: ignore[call-overload]


@lru_cache(maxsize=1)
def _open_zip(uri: str, options: str, state: tuple[int, int]) -> zipfile.ZipFile:
    """The last one stays open: the directory of half a million members takes seconds to read."""
    return zipfile.ZipFile(open_binary(uri, options))


def is_zip(uri: str, options: str = "") -> bool:
    with open_binary(uri, options) as stream:
        return zipfile.is_zipfile(stream)


def is_archive(uri: str, options: str = "") -> bool:
    """Is it a tar or zip archive, by its content? What is named like one and cannot be read raises (DAMAGED)."""
    if is_zip(uri, options):
        return True
    named_so = uri.lower().endswith(_ARCHIVE_NAMES)
    try:
        with _open_tar(uri, options) as tar:
            return named_so or tar.next() is not None  # nothing but zeros is an empty tar too
    except DAMAGED:
        if named_so:
            raise
        return False


def members(uri: str, options: str = "", wanted: Collection[int] | None = None) -> Iterator[Member]:
    """Regular files of an archive, in their order. `open` one before asking for the next.

    Parameters
    ----------
    wanted : collection of int
        Only these are asked for. A zip archive gives no others; a tar has to be gone through.
    """
    if is_zip(uri, options):
        archive = _open_zip(uri, options, size_and_time(uri, options))
        entries = archive.infolist()
        for index in range(len(entries)) if wanted is None else sorted(i for i in wanted if i < len(entries)):
            entry = entries[index]
            if not entry.is_dir():
                yield Member(index, as_utf8(entry.filename), entry.file_size, partial(archive.open, entry))
        return
    with _open_tar(uri, options) as tar:
        index = 0
        while (header := tar.next()) is not None:
            if header.isreg():
                yield Member(index, as_utf8(header.name), header.size, partial(tar.extractfile, header))
            tar.members = []  # type: ignore[attr-defined]  # or a million headers stay in memory
            index += 1
        # tarfile takes a damaged header for the end
        under: Any = tar.fileobj
        under.seek(tar.offset)
        if under.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"damaged after {index} members")
