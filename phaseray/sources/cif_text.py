"""Bytes to a gemmi CIF document: encodings, and the few repairs that are not guesses."""

from __future__ import annotations

import codecs
import re
from typing import Any

import gemmi

from phaseray.crystal import Rejection

# The value of this tag is a group name, which may hold blanks; every word up to the line's end belongs to it.
_BARE_GROUP_NAME = re.compile(
    rb"^([ \t]*_(?:symmetry_)?space_group_name_h-m(?:_alt)?[ \t]+)([^\s'\"#;_?.][^\r\n'\"#]*?)[ \t]*(\r?)$", re.I | re.M
)
_POSITION = re.compile(r":(\d+):\d+\((\d+)\): (.*)", re.S)
_READ_BY_US = ("_cell", "_symmetry", "_space_group", "_atom_site", "_chemical_formula_sum")


def parse_cif(content: bytes, notes: list[str]) -> gemmi.cif.Document:
    """The CIF document that `content` holds.

    What had to be repaired is appended to `notes`, a sentence each.

    Raises
    ------
    Rejection
        encoding, truncated or syntax.
    """
    content = _as_utf8(content, notes)
    if not content.strip():
        raise Rejection("syntax", "the input is empty")
    try:
        return gemmi.cif.read_string(content)
    except (ValueError, RuntimeError) as error:
        message = str(error)
    repaired = _quote_group_names(content, notes)
    check_level = 1
    if "duplicate tag" in message:
        check_level = 0
    elif repaired == content:
        raise _syntax_error(message, content)
    try:
        document = gemmi.cif.read_string(repaired, check_level)
    except (ValueError, RuntimeError) as error:
        raise _syntax_error(str(error), repaired) from error
    if check_level == 0:
        _judge_duplicates(document, notes)
    return document


def _as_utf8(content: bytes, notes: list[str]) -> bytes:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            content = content.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise Rejection("encoding", f"the file begins like UTF-16 but is not: {error.reason}") from error
        notes.append("The file is in UTF-16; it was decoded.")
    elif content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
        notes.append("A byte-order mark at the file's start was skipped.")
    if b"\0" in content:
        raise Rejection(
            "encoding", "the file holds zero bytes: it is no text (compressed files must be unpacked first)"
        )
    stripped = content.rstrip(b" \t\r\n\x1a")
    if b"\x1a" in content[len(stripped) :]:
        content = stripped + b"\n"
        notes.append("A Ctrl-Z (the end-of-file mark of DOS) at the end was removed.")
    if not content.isascii():
        try:
            content.decode()
        except UnicodeDecodeError:
            content = content.decode("latin-1").encode()
            notes.append("The file is not UTF-8; it was read as Latin-1.")
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    return content


def _quote_group_names(content: bytes, notes: list[str]) -> bytes:
    def quote(match: re.Match[bytes]) -> bytes:
        name = match[2].decode()
        if len(name.split()) < 2 or gemmi.find_spacegroup_by_name(name) is None:
            return match[0]
        notes.append(f"The space group name {name} has blanks but no quotes; quotes were added.")
        return match[1] + b"'" + match[2] + b"'" + match[3]

    return _BARE_GROUP_NAME.sub(quote, content)


def _judge_duplicates(document: gemmi.cif.Document, notes: list[str]) -> None:
    for block in document:
        seen: dict[str, str | None] = {}
        for item in block:
            if item.loop is not None:
                pairs: list[Any] = [(tag, None) for tag in item.loop.tags]
            else:
                pairs = [tuple(item.pair)] if item.pair is not None else []
            for tag, value in pairs:
                name = tag.lower()
                if name in seen and (seen[name] != value or value is None) and name.startswith(_READ_BY_US):
                    raise Rejection("syntax", f"{tag} is given twice in block {block.name}, with different values")
                if name in seen:
                    notes.append(f"{tag} is given twice; the first was used.")
                seen.setdefault(name, value)


def _syntax_error(message: str, content: bytes) -> Rejection:
    match = _POSITION.search(message)
    if not match:
        return Rejection("syntax", f"the CIF cannot be parsed: {message}")
    line, offset, what = int(match[1]), int(match[2]), match[3]
    if offset >= len(content.rstrip()) or (what.startswith("unterminated") and content.count(b"\n", offset) <= 1):
        return Rejection("truncated", f"the file ends within an item or a loop (line {line}): {what}")
    return Rejection("syntax", f"the CIF cannot be parsed at line {line}: {what}")
