"""Reading no more than allowed, and saying why something could not be read."""

from __future__ import annotations

import io
from typing import IO

from phaseray.crystal import Rejection
from phaseray.sources.archives import DAMAGED, DECOMPRESS

COMPRESSED_NAMES = (".gz", ".xz", ".bz2", ".zst")
# zipfile decompresses all that one read takes in: small reads keep a bomb small
_CHUNK = 4096


def read_bounded(stream: IO[bytes], max_bytes: int, what: str = "it") -> bytes:
    """All bytes of a stream.

    Raises
    ------
    Rejection
        too_large, once more than `max_bytes` have come.
    """
    parts, size = [], 0
    while part := stream.read(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise too_large(what, max_bytes)
    return b"".join(parts)


def decompressed(content: bytes, max_bytes: int, what: str) -> bytes:
    """What a .gz, .xz, .bz2 or .zst file holds, told by its first bytes; other content as it is."""
    for magic, decompress in DECOMPRESS:
        if content.startswith(magic):
            with decompress(io.BytesIO(content)) as stream:
                return read_bounded(stream, max_bytes, what)
    return content


def too_large(what: str, max_bytes: int) -> Rejection:
    return Rejection("too_large", f"{what} has more than {max_bytes} bytes: raise limits.max_bytes to read it")


def rejection_of(error: Exception, what: str) -> Rejection:
    """The error as a reason not to take an input; code "internal" for the unforeseen."""
    if isinstance(error, Rejection):
        return error.with_traceback(None)
    # RuntimeError: a password is needed; NotImplementedError: a zip method unknown here
    if isinstance(error, (*DAMAGED, RuntimeError, NotImplementedError)):
        return Rejection("unreadable", f"cannot read {what}: {error_reason(error)}")
    return internal(error, what)


def internal(error: Exception, what: str) -> Rejection:
    return Rejection("internal", f"reading {what} failed with {type(error).__name__}: {error}")


def error_reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
