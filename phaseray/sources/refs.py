"""What there is to read, as plain references."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class InputRef:
    """One input, before it is read. Strings and integers only: a row of a Parquet file.

    Attributes
    ----------
    id : str
        Unique in a run, and the same in every run: "cif.tar.xz/amcsd_00015.cif".
    kind : str
        "prototypes", "synthetic", "symmetric", "molecular", "cif", "table", "amcsd" or "core_mof".
    uri : str
        Absolute path or address of the file or archive; empty for what is generated. Of a database
        that pip brings, the path inside its package, which may lie elsewhere on each machine.
    member : str
        Name inside the archive, or the row's own id in a table; empty for a file of its own.
    index : int
        Number of the prototype or artificial crystal, place in the archive, row of the table or
        database; else -1.
    size : int
        Bytes, -1 where not known.
    params : str
        JSON of what else reading needs (the seed and the source of artificial crystals, columns of
        tables, options of object stores, symprec); empty if nothing.
    sha256 : str
        Of the content, in hex, where listing reads it anyway (members of tars, lines of JSON files);
        else "": then it is known when the input has been read.
    """

    id: str
    kind: str
    uri: str = ""
    member: str = ""
    index: int = -1
    size: int = -1
    params: str = ""
    sha256: str = ""

    @property
    def known(self) -> dict[str, Any]:
        """`params` as a dictionary."""
        return json.loads(self.params) if self.params else {}


def options_of(params: dict[str, Any]) -> str:
    """The options of an object store, in the one form that locations.py takes: JSON, or empty."""
    options = params.get("options")
    return json.dumps(options, sort_keys=True) if options else ""
