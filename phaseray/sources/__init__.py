"""Where crystals come from: files, archives, tables, databases, the AFLOW prototypes, artificial crystals."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseray.sources.cif import read_cif
    from phaseray.sources.files import fetch_inputs, parse_input, read_input, read_inputs
    from phaseray.sources.listing import list_inputs
    from phaseray.sources.molecular import molecular_crystal
    from phaseray.sources.prototypes import prototype
    from phaseray.sources.refs import InputRef
    from phaseray.sources.symmetric import symmetric_crystal
    from phaseray.sources.synthetic import synthetic_crystal

__all__ = [
    "InputRef",
    "fetch_inputs",
    "list_inputs",
    "molecular_crystal",
    "parse_input",
    "prototype",
    "read_cif",
    "read_input",
    "read_inputs",
    "symmetric_crystal",
    "synthetic_crystal",
]

# Loaded on first use: a CIF alone needs none of the others.
_HOME = {
    "InputRef": "refs",
    "fetch_inputs": "files",
    "list_inputs": "listing",
    "molecular_crystal": "molecular",
    "parse_input": "files",
    "prototype": "prototypes",
    "read_cif": "cif",
    "read_input": "files",
    "read_inputs": "files",
    "symmetric_crystal": "symmetric",
    "synthetic_crystal": "synthetic",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"phaseray.sources.{_HOME[name]}"), name)
    raise AttributeError(f"module 'phaseray.sources' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
