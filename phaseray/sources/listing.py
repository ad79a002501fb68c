"""What every source holds, as plain references, listed in stretches that workers take side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel

from phaseray.config import (
    AmcsdSource,
    CifSource,
    CoreMofSource,
    Limits,
    MolecularSource,
    PrototypesSource,
    Source,
    SymmetricSource,
    SyntheticSource,
    TableSource,
)  # fmt: skip
from phaseray.sources import archives, databases, locations, prototypes, tables
from phaseray.sources.bounded import COMPRESSED_NAMES, error_reason, read_bounded
from phaseray.sources.locations import Branch, as_utf8
from phaseray.sources.refs import InputRef, options_of
from phaseray.sources.spool import Item, spool_path, spooled
from phaseray.sources.taken import TakenIds


@dataclass(frozen=True)
class Stretch:
    """A part of a source that is listed by itself.

    Attributes
    ----------
    source : int
        Which of the sources.
    slow : bool
        Are there folders or archives to go through, so that a task of its own is worth it?
    subset : str
        Of CoRE MOF.
    branch : Branch or None
        Of a folder.
    """

    source: int
    slow: bool = False
    subset: str = ""
    branch: Branch | None = None


def list_inputs(
    sources: Source | Iterable[Source], seed: int, *, spool: Path | None = None, limits: Limits | None = None
) -> Iterator[InputRef]:
    """Every input of one source, or of several, in an order that depends on nothing but names.

    Ids begin with the name of the folder or archive. An id that came before gets an ordinal
    ("synthetic/0/3#2"), so hand over all sources of a run at once.

    Parameters
    ----------
    spool : Path
        A folder that every worker can read. Members of tars and lines of JSON files are
        written to it on the way, since nothing else reaches one of them without all that stand
        before it. Hand the same folder to `read_inputs`. When iteration ends, it is complete.
    limits : Limits
        What is over `max_bytes` is listed, not spooled.

    Raises
    ------
    ValueError
        While iterating: a path that is not there, holds nothing that matches, or is damaged; a
        database that is not installed.
    """
    taken = TakenIds()
    sources = [sources] if isinstance(sources, BaseModel) else list(sources)
    for source in sources:
        found = False
        for stretch in stretches([source]):
            for ref in list_stretch(source, stretch, seed, spool=spool, limits=limits):
                found = True
                id = taken.unique(ref.id)
                yield ref if id == ref.id else replace(ref, id=id)
        if not found:
            check_found(source)


def stretches(sources: Sequence[Source]) -> list[Stretch]:
    """The sources in pieces; what these hold, one after the other, is what the sources hold.

    Raises
    ------
    ValueError
        As `list_inputs`, where that shows already.
    """
    pieces = []
    for number, source in enumerate(sources):
        if isinstance(source, CoreMofSource):
            pieces += [Stretch(number, True, subset=subset) for subset in source.subsets]
        elif isinstance(source, CifSource | TableSource):
            pieces += [Stretch(number, True, branch=branch) for branch in _branches(source)]
        else:
            pieces.append(Stretch(number))
    return pieces


def list_stretch(
    source: Source, stretch: Stretch, seed: int, *, spool: Path | None = None, limits: Limits | None = None
) -> Iterator[InputRef]:
    """As `list_inputs`, of one stretch; ids are not unique yet, and nothing at all is no error yet."""
    return _Lister(seed, spool, limits or Limits()).list(source, stretch)


def check_found(source: Source) -> None:
    """Say that a source holds nothing, where that is an error."""
    if isinstance(source, CifSource | TableSource):
        raise ValueError(
            f"nothing in the {_what(source)} source {locations.absolute(source.path)} matches "
            f"{source.pattern or tables.PATTERNS!r}: check the path or `pattern`"
        )


def _what(source: CifSource | TableSource) -> str:
    return "CIF" if isinstance(source, CifSource) else "table"


def _branches(source: CifSource | TableSource) -> list[Branch | None]:
    path, options = locations.absolute(source.path), options_of(source.model_dump(mode="json"))
    try:
        kind = locations.kind_of(path, options)
        if kind == "missing":
            kinds = "a file, a folder, a tar or zip archive" if _what(source) == "CIF" else "a file or a folder"
            raise ValueError(f"there is no {_what(source)} source {path}: check `path` ({kinds})")
        return list(locations.branches(path, options)) if kind == "folder" else [None]
    except archives.DAMAGED as error:
        raise _unlisted(source, error) from error


def _unlisted(source: CifSource | TableSource, error: BaseException) -> ValueError:
    path = locations.absolute(source.path)
    return ValueError(f"cannot list the {_what(source)} source {path}: {error_reason(error)}. Get it again, or mend it")


class _Lister:
    def __init__(self, seed: int, spool: Path | None, limits: Limits) -> None:
        self.seed, self.spool, self.limits = seed, spool, limits

    def list(self, source: Source, stretch: Stretch) -> Iterator[InputRef]:
        if isinstance(source, PrototypesSource):
            for index, id in enumerate(prototypes.names()):
                yield InputRef(id, "prototypes", index=index)
        elif isinstance(source, SyntheticSource | SymmetricSource | MolecularSource):
            params = json.dumps({"seed": self.seed, "source": source.model_dump(mode="json")})
            for index in range(source.count):
                yield InputRef(f"{source.kind}/{self.seed}/{index}", source.kind, index=index, params=params)
        elif isinstance(source, AmcsdSource):
            for code in databases.amcsd_ids():
                yield InputRef(f"amcsd/{code:05d}", "amcsd", databases.AMCSD, index=code)
        elif isinstance(source, CoreMofSource):
            params, subset = _params(source), stretch.subset
            uri = databases.core_mof_uri(subset)
            archive = databases.package_path(uri)
            for index, name, size, sha256 in self._members(archive, "", uri, params):
                if _matches(name, "*.cif"):
                    id = _tidy(f"core-mof/{subset}/{PurePosixPath(name).name}")
                    yield InputRef(id, "core_mof", uri, name, index, size, params, sha256)
        else:
            options = options_of(source.model_dump(mode="json"))
            try:
                if isinstance(source, TableSource):
                    yield from self._table(locations.absolute(source.path), source, options, stretch.branch)
                else:
                    yield from self._cif(locations.absolute(source.path), source, options, stretch.branch)
            except archives.DAMAGED as error:
                raise _unlisted(source, error) from error

    def _cif(self, path: str, source: CifSource, options: str, branch: Branch | None) -> Iterator[InputRef]:
        kind, name, params = locations.kind_of(path, options), _last(path), _params(source)
        if kind == "folder":
            for uri, relative, size in locations.walk(path, options, branch):
                if _matches(relative, source.pattern):
                    yield InputRef(_tidy(f"{name}/{relative}"), "cif", uri, size=size, params=params)
        elif kind != "file":
            raise OSError("neither a file nor a folder")
        elif archives.is_archive(path, options):
            for index, member, size, sha256 in self._members(path, options, path, params):
                if _matches(member, source.pattern):
                    yield InputRef(_tidy(f"{name}/{member}"), "cif", path, member, index, size, params, sha256)
        else:
            size, _ = locations.size_and_time(path, options)
            yield InputRef(_tidy(name), "cif", as_utf8(path), size=size, params=params)

    def _members(self, path: str, options: str, uri: str, params: str) -> Iterator[tuple[int, str, int, str]]:
        """Place, name, size and digest of every regular file in an archive; those of a tar go to the spool."""
        if self.spool is None or archives.is_zip(path, options):
            for member in archives.members(path, options):
                yield member.index, member.name, member.size, ""
            return
        stamp = json.dumps([uri, *locations.size_and_time(path, options), self.limits.max_bytes])
        for index, name, size, sha256 in spooled(
            spool_path(self.spool, uri, params), stamp, partial(self._items, path, options)
        ):
            # of a .gz in a tar that of what it holds counts, which is known when it has been read
            yield index, name, size, "" if PurePosixPath(name).suffix.lower() in COMPRESSED_NAMES else sha256

    def _items(self, path: str, options: str) -> Iterator[Item]:
        for member in archives.members(path, options):
            content = None
            if member.size <= self.limits.max_bytes:
                with member.open() as stream:
                    content = read_bounded(stream, member.size)
            yield Item(member.index, member.name, member.size, content)

    def _table(self, path: str, source: TableSource, options: str, branch: Branch | None) -> Iterator[InputRef]:
        kind, name = locations.kind_of(path, options), _last(path)
        if kind == "folder":
            patterns = tables.PATTERNS if source.pattern is None else (source.pattern,)
            for uri, relative, _ in locations.walk(path, options, branch):
                if any(_matches(relative, pattern) for pattern in patterns):
                    yield from self._rows(uri, f"{name}/{relative}", source, options)
        elif kind != "file":
            raise OSError("neither a file nor a folder")
        else:
            yield from self._rows(path, name, source, options)

    def _rows(self, uri: str, name: str, source: TableSource, options: str) -> Iterator[InputRef]:
        known = tables.layout(uri, source, options) | json.loads(_params(source) or "{}")
        params, most = json.dumps(known, sort_keys=True), self.limits.max_bytes
        if self.spool is None or not tables.needs_spool(uri, options):
            found: Iterator[tuple[int, str, int, str]] = ((*row, "") for row in tables.names(uri, known, most))
        else:
            stamp = json.dumps([uri, params, *locations.size_and_time(uri, options), most])
            found = spooled(spool_path(self.spool, uri, params), stamp, partial(tables.rows, uri, known, None, most))
        for index, row, size, sha256 in found:
            yield InputRef(_tidy(f"{name}/{row}"), "table", uri, row, index, size, params, sha256)


def _params(source: CifSource | CoreMofSource | TableSource) -> str:
    """What the worker has to know, as JSON; empty where that is nothing."""
    known: dict[str, Any] = {}
    if source.recover_symmetry:
        known["symprec"] = source.symprec
    if not isinstance(source, CoreMofSource) and source.options:
        known["options"] = source.options
    return json.dumps(known, sort_keys=True) if known else ""


def _matches(name: str, pattern: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/").lower())
    # "._x.cif" is what macOS adds to archives beside x.cif
    if path.name.startswith("._"):
        return False
    pattern = pattern.lower().removeprefix("**/")
    return path.match(pattern) or (path.suffix in COMPRESSED_NAMES and path.with_suffix("").match(pattern))


def _last(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _tidy(name: str) -> str:
    """A name fit for an id: no way up, no control characters, valid UTF-8."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "".join(c if c.isprintable() else "_" for c in "/".join(parts))
