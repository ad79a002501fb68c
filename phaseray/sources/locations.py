"""Files and folders where they are: on a disk, on s3:// or on gs://.

Object stores are reached through pyarrow.fs. What it needs to know beyond the address (`region`,
`endpoint_override`, `anonymous`, …: the arguments of pyarrow.fs.S3FileSystem and GcsFileSystem) is
handed over as JSON, `options` (a `retry_time_limit` in seconds: gs:// tries for 15 minutes by itself);
keys come from the environment of each machine, as usual there.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

_SCHEMES = ("s3://", "gs://")
# of an object: a request a block
_BLOCK = 1 << 20
_DEPTH, _ENOUGH_BRANCHES, _MOST_BRANCHES = 3, 32, 1000


class Branch(NamedTuple):
    """A folder of a tree: with all below it, or only the files right in it."""

    folder: str
    whole: bool


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


def walk(top: str, options: str = "", branch: Branch | None = None) -> Iterator[tuple[str, str, int]]:
    """Address, path below `top` and bytes (-1 if not known) of every file, in the order of names.

    Of a folder the files come before the folders in it. Only the names of one folder and of those above
    it are in memory at a time; of gs:// all names.

    Parameters
    ----------
    branch : Branch
        One of `branches(top)`: only the files there.
    """
    branch = branch or Branch(top, True)
    if top.startswith("gs://"):
        yield from _walk_gs(options, top[5:])
        return
    if is_remote(top):
        yield from _walk_objects(top[:5], options, branch.folder[5:], len(top) - 4, branch.whole)
        return
    for file in _walk_disk(top, branch):
        yield as_utf8(file), os.path.relpath(file, top), os.stat(file).st_size if os.path.exists(file) else -1


def branches(top: str, options: str = "") -> list[Branch]:
    """Pieces of a tree that can be walked at once: one after the other they give what `walk` gives.

    A folder with thousands of folders in it is not cut, nor is one on gs://.
    """
    found = [Branch(top, True)]
    if top.startswith("gs://"):
        return found
    for _ in range(_DEPTH):
        finer: list[Branch] = []
        for branch in found:
            subfolders = _subfolders(top, branch.folder, options) if branch.whole else []
            finer += [Branch(branch.folder, False), *(Branch(f, True) for f in subfolders)] if subfolders else [branch]
            if len(finer) > _MOST_BRANCHES:
                return found
        if finer == found or len(found) >= _ENOUGH_BRANCHES:
            return found
        found = finer
    return found


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
    if "retry_time_limit" in known:
        known["retry_time_limit"] = timedelta(seconds=float(known["retry_time_limit"]))
    try:
        return fs.S3FileSystem(**known) if scheme == "s3://" else fs.GcsFileSystem(**known)
    except TypeError as error:
        raise ValueError(f"options for {scheme} that pyarrow.fs does not know: {error}") from error


def _walk_objects(
    scheme: str, options: str, folder: str, skip: int, whole: bool = True
) -> Iterator[tuple[str, str, int]]:
    from pyarrow.fs import FileSelector, FileType

    found = _filesystem(scheme, options).get_file_info(FileSelector(folder))
    entries = sorted(((info.path, info.size, info.type) for info in found), key=lambda entry: entry[0])
    del found
    for path, size, kind in entries:
        if kind == FileType.File:
            yield scheme + path, path[skip:], -1 if size is None else size
    for path, _, kind in entries:
        if whole and kind == FileType.Directory:
            yield from _walk_objects(scheme, options, path, skip)


def _walk_gs(options: str, top: str) -> Iterator[tuple[str, str, int]]:
    # pyarrow lists a folder of gs:// without the folders in it, unless empty objects mark them
    # (apache/arrow#35993): only the list of all that lies below is whole
    from pyarrow.fs import FileSelector, FileType

    def place(file: tuple[str, int]) -> list[tuple[bool, str]]:
        *folders, name = file[0].split("/")
        return [*((True, folder) for folder in folders), (False, name)]

    found = _filesystem("gs://", options).get_file_info(FileSelector(top, recursive=True))
    files = sorted(((info.path, info.size) for info in found if info.type == FileType.File), key=place)
    del found
    for path, size in files:
        yield f"gs://{path}", path[len(top) + 1 :], -1 if size is None else size


def _walk_disk(top: str, branch: Branch) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    visited = set()
    for folder, subfolders, files in os.walk(branch.folder, onerror=fail, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in visited or _leads_back(top, folder):
            subfolders.clear()
            continue
        visited.add((here.st_dev, here.st_ino))
        subfolders[:] = sorted(subfolders) if branch.whole else []
        for file in sorted(files):
            yield os.path.join(folder, file)


def _leads_back(top: str, folder: str) -> bool:
    """Is it a link into the tree? What lies there is come upon without it."""
    above = os.path.realpath(top)
    real = os.path.realpath(folder)
    return real != os.path.normpath(os.path.join(above, os.path.relpath(folder, top))) and (
        real == above or real.startswith(os.path.join(above, ""))
    )


def _subfolders(top: str, folder: str, options: str) -> list[str]:
    if is_remote(folder):
        from pyarrow.fs import FileSelector, FileType

        found = _filesystem(folder[:5], options).get_file_info(FileSelector(folder[5:]))
        return sorted(folder[:5] + info.path for info in found if info.type == FileType.Directory)
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and not _leads_back(top, entry.path))


def as_utf8(name: str) -> str:
    """A name fit for a Parquet file, whatever bytes the disk or archive has it in."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
