"""Reading inputs one by one, wherever they are: files, archives, tables, databases, generators.

A reference is small and made of strings and integers, so the driver lists, and workers read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from phaseray.config import Limits, MolecularSource, SymmetricSource, SyntheticSource
from phaseray.crystal import Crystal, Rejection
from phaseray.sources import archives, databases, locations, prototypes, tables
from phaseray.sources.bounded import decompressed, internal, read_bounded, rejection_of, too_large
from phaseray.sources.listing import list_inputs
from phaseray.sources.refs import InputRef, options_of
from phaseray.sources.spool import read_spool, spool_path
from phaseray.sources.symmetric import symmetric_crystal
from phaseray.sources.synthetic import synthetic_crystal

__all__ = ["InputRef", "fetch_inputs", "list_inputs", "parse_input", "read_input", "read_inputs"]

Content = bytes | Crystal | Rejection


def read_input(ref: InputRef, limits: Limits | None = None, *, spool: Path | None = None) -> Crystal:
    """The crystal of one reference.

    Without a spool, a member of a tar archive is reached through all that stand before it: use
    `read_inputs` for many.

    Raises
    ------
    Rejection
        Whatever goes wrong, also the unforeseen (code "internal").
    """
    ((_, result, _),) = read_inputs([ref], limits, spool=spool)
    if isinstance(result, Rejection):
        raise result
    return result


def read_inputs(
    refs: Iterable[InputRef], limits: Limits | None = None, *, spool: Path | None = None
) -> Iterator[tuple[InputRef, Crystal | Rejection, str]]:
    """Read many inputs; each archive is gone through once, in its order.

    Parameters
    ----------
    spool : Path
        The folder that `list_inputs` filled; what is not there is read from the archives themselves.

    Yields
    ------
    ref, crystal or rejection, sha256
        `sha256` is that of the bytes read (of a .gz file those that it holds; of a row of a table its
        text or JSON), in hex; "" for what is generated or could not be read. Every ref is yielded
        once: files and generated crystals first, then archive by archive. An unforeseen error is a
        Rejection with the code "internal".
    """
    for ref, content, sha256 in fetch_inputs(refs, limits, spool=spool):
        yield ref, parse_input(ref, content, limits) if isinstance(content, bytes) else content, sha256


def fetch_inputs(
    refs: Iterable[InputRef], limits: Limits | None = None, *, spool: Path | None = None
) -> Iterator[tuple[InputRef, Content, str]]:
    """As `read_inputs`, with the bytes in place of the crystal, for `parse_input`."""
    limits = limits or Limits()
    collections: dict[tuple[str, str], list[InputRef]] = {}
    for ref in refs:
        if ref.member:
            collections.setdefault((ref.uri, ref.params), []).append(ref)
        else:
            yield ref, *_with_digest(partial(_read_alone, ref, limits), ref)
    for (uri, _), wanted in collections.items():
        yield from _read_collection(uri, wanted, limits, spool)


def parse_input(ref: InputRef, content: bytes, limits: Limits | None = None) -> Crystal | Rejection:
    """What `fetch_inputs` gave, whatever its format is, as a crystal; nothing is raised."""
    from phaseray.sources.cif import read_cif

    try:
        name = f"{ref.uri}/{ref.member}" if ref.member else ref.uri
        known = ref.known
        kind = known.get("format", "cif")
        if kind == "cif":
            crystal = read_cif(content, limits=limits, id=ref.id, source_name=name)
        else:
            crystal = tables.crystal_of(content, kind, limits or Limits(), id=ref.id, source=name)
        if "symprec" in known:
            from phaseray.sources.symmetry import recover_symmetry

            crystal = recover_symmetry(crystal, known["symprec"])
        return crystal
    except Rejection as rejection:
        return rejection.with_traceback(None)
    except Exception as error:
        return internal(error, ref.id)


def _read_alone(ref: InputRef, limits: Limits) -> bytes | Crystal:
    if ref.kind == "cif":
        return _read_file(ref, limits.max_bytes)
    if ref.kind == "amcsd":
        return databases.amcsd_cif(ref.index)
    if ref.kind == "prototypes":
        crystal = prototypes.prototype(ref.index)
    else:
        crystal = _artificial(ref)
    if crystal.n_atoms > limits.max_atoms or crystal.volume > limits.max_volume:
        size = f"{crystal.n_atoms} atoms in {crystal.volume:.0f} Å³"
        raise Rejection("too_large", f"{ref.id} has {size}: raise limits.max_atoms or limits.max_volume to keep it")
    return replace(crystal, id=ref.id)


def _artificial(ref: InputRef) -> Crystal:
    source, seed = _source(ref.params)
    if isinstance(source, SyntheticSource):
        return synthetic_crystal(source, seed, ref.index)
    if isinstance(source, SymmetricSource):
        return symmetric_crystal(source, seed, ref.index)
    from phaseray.sources.molecular import molecular_crystal

    return molecular_crystal(source, seed, ref.index)


@lru_cache(maxsize=64)
def _source(params: str) -> tuple[SyntheticSource | SymmetricSource | MolecularSource, int]:
    known = json.loads(params)
    kinds: dict[str, type[SyntheticSource | SymmetricSource | MolecularSource]]
    kinds = {"synthetic": SyntheticSource, "symmetric": SymmetricSource, "molecular": MolecularSource}
    return kinds[known["source"]["kind"]].model_validate(known["source"]), known["seed"]


def _read_file(ref: InputRef, max_bytes: int) -> bytes:
    with locations.open_binary(ref.uri, options_of(ref.known)) as stream:
        content = read_bounded(stream, max_bytes, ref.id)
    return decompressed(content, max_bytes, ref.id)


def _read_collection(
    uri: str, refs: list[InputRef], limits: Limits, spool: Path | None
) -> Iterator[tuple[InputRef, Content, str]]:
    """Members of one archive, or rows of one table."""
    waiting = {ref.index: ref for ref in refs}
    assert len(waiting) == len(refs), "a member asked for twice"
    broken = Rejection("unreadable", f"{uri} has changed since it was listed: list the inputs again")
    try:
        for index, name, read in _items(uri, refs, limits, spool):
            if index in waiting and waiting[index].member == name:
                ref = waiting.pop(index)
                yield ref, *_with_digest(partial(_read_member, read, ref, limits.max_bytes), ref)
            if not waiting:
                return
    except Exception as error:
        broken = rejection_of(error, f"the {'table' if refs[0].kind == 'table' else 'archive'} {uri}")
    for ref in waiting.values():
        yield ref, broken, ""


def _items(
    uri: str, refs: list[InputRef], limits: Limits, spool: Path | None
) -> Iterator[tuple[int, str, Callable[[int], bytes]]]:
    """Place, name and reader of the items of an archive or table, at least of those asked for."""
    known = refs[0].known
    copy = spool_path(spool, uri, refs[0].params) if spool is not None else None
    if copy is not None and copy.exists():
        for item in read_spool(copy, [ref.index for ref in refs]):
            yield item.index, item.name, partial(_given, item.content, item.name)
    elif refs[0].kind == "table":
        for row in tables.rows(uri, known, {ref.index for ref in refs}, limits.max_bytes):
            yield row.index, row.name, partial(_given, row.content, row.name)
    else:
        path = databases.package_path(uri) if refs[0].kind == "core_mof" else uri
        for member in archives.members(path, options_of(known), [ref.index for ref in refs]):
            yield member.index, member.name, partial(_read_stream, member)


def _given(content: bytes | None, name: str, max_bytes: int) -> bytes:
    if content is None or len(content) > max_bytes:
        raise too_large(name, max_bytes)
    return content


def _read_stream(member: archives.Member, max_bytes: int) -> bytes:
    if member.size > max_bytes:
        raise too_large(member.name, max_bytes)
    with member.open() as stream:
        return read_bounded(stream, max_bytes, member.name)


def _read_member(read: Callable[[int], bytes], ref: InputRef, max_bytes: int) -> bytes:
    content = read(max_bytes)
    return content if ref.kind == "table" else decompressed(content, max_bytes, ref.id)


def _with_digest(read: Callable[[], bytes | Crystal], ref: InputRef) -> tuple[Content, str]:
    try:
        content = read()
    except Exception as error:
        return rejection_of(error, ref.id), ""
    return content, hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""
