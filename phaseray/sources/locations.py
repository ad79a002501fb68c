"""Files and folders where they are: on a disk, on s3:// or on gs://.

Object stores are reached through pyarrow.fs. What it needs to know beyond the address (`region`,
`endpoint_override`, `anonymous`, …: the arguments of pyarrow.fs.S3FileSystem and GcsFileSystem) is
handed over as JSON, `options`; keys come from the environment of each machine, as usual there.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

_SCHEMES = ("s3://", "gs://")
# of an object: a request a block
_BLOCK = 1 << 20


def is_remote(uri: str) -> bool:
    return uri.startswith(_SCHEMES)


def absolute(path: str) -> str:
    """The address in the one form that ids and references are made from."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def kind_of(uri: str, options: str = "") -> str:
    """ "file", "folder", "missing" or "other" (a pipe, a device)."""
    if is_remote(uri):
        from pyarrow.fs import FileType

        kinds = {FileType.File: "file", FileType.Directory: "folder", FileType.NotFound: "missing"}
        return kinds.get(_filesystem(uri[:5], options).get_file_info(uri[5:]).type, "other")
    if not os.path.exists(uri):
        return "missing"
    mode = os.stat(uri).st_mode
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def size_and_time(uri: str, options: str = "") -> tuple[int, int]:
    """Bytes, and when it was last written, in nanoseconds: what tells that a file has changed."""
    if is_remote(uri):
        info = _filesystem(uri[:5], options).get_file_info(uri[5:])
        return info.size or -1, info.mtime_ns or 0
    status = os.stat(uri)
    return status.st_size, status.st_mtime_ns


def walk(top: str, options: str = "") -> Iterator[tuple[str, str, int]]:
    """Address, path below `top` and bytes (-1 if not known) of every file, in the order of names.

    Only the names of one folder and of those above it are in memory at a time.
    """
    if is_remote(top):
        yield from _walk_objects(top[:5], options, top[5:], len(top) - 4)
        return
    for file in _walk_disk(top):
        yield as_utf8(file), os.path.relpath(file, top), os.stat(file).st_size if os.path.exists(file) else -1


def open_binary(uri: str, options: str = "") -> Any:
    """A seekable stream of bytes.

    Raises
    ------
    OSError
        Not there, not allowed, not a regular file.
    """
    if is_remote(uri):
        stream: Any = _filesystem(uri[:5], options).open_input_file(uri[5:])
        return io.BufferedReader(stream, _BLOCK)
    # a named pipe would be waited for without end
    if not stat.S_ISREG(os.stat(uri).st_mode):
        raise OSError("not a regular file")
    return open(uri, "rb")


@lru_cache(maxsize=16)
def _filesystem(scheme: str, options: str) -> Any:
    from pyarrow import fs

    known = json.loads(options or "{}")
    try:
        return fs.S3FileSystem(**known) if scheme == "s3://" else fs.GcsFileSystem(**known)
    except TypeError as error:
        raise ValueError(f"options for {scheme} that pyarrow.fs does not know: {error}") from error


def _walk_objects(scheme: str, options: str, folder: str, skip: int) -> Iterator[tuple[str, str, int]]:
    from pyarrow.fs import FileSelector, FileType

    found = _filesystem(scheme, options).get_file_info(FileSelector(folder))
    entries = sorted(((info.path, info.size, info.type) for info in found), key=lambda entry: entry[0])
    del found
    for path, size, kind in entries:
        if kind == FileType.File:
            yield scheme + path, path[skip:], -1 if size is None else size
    for path, _, kind in entries:
        if kind == FileType.Directory:
            yield from _walk_objects(scheme, options, path, skip)


def _walk_disk(top: str) -> Iterator[str]:
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


def as_utf8(name: str) -> str:
    """A name fit for a Parquet file, whatever bytes the disk or archive has it in."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
