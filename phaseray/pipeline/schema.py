"""What stands in the Parquet files: columns, units, versions; rows to Crystal and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from phaseray.crystal import Crystal
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.fingerprint import rough
from phaseray.pipeline.half import from_half

CATALOGUE_VERSION = 3
SHARDS_VERSION = 1

UNITS: Mapping[str, str] = {
    "cell": "Å, Å, Å, °, °, °",
    "positions": "fractional",
    "occupancy": "share of cells",
    "u_iso": "Å²",
    "u_aniso": "Å² (U11 U22 U33 U12 U13 U23, CIF convention)",
    "volume": "Å³",
    "number_density": "atoms an Å³",
    "n_electrons": "electrons in the cell",
    "d_min": "Å",
    "complete_d_min": "Å",
    "amplitude": "electrons; |F| with l ≥ 0 in FFT order, 0 beyond d_min",
    "density": "e/Å³; point (i, j, k) at (i/nx, j/ny, k/nz)",
    "amplitude_scale": "electrons: times amplitude",
    "density_scale": "e/Å³: times density",
}

_VECTOR3 = pa.list_(pa.float64(), 3)
_ATOMS = [
    # a list of fixed size could not be null: Parquet files with such nulls cannot be read back
    pa.field("cell", pa.list_(pa.float64())),
    pa.field("numbers", pa.list_(pa.int16())),
    pa.field("isotopes", pa.list_(pa.int16())),
    pa.field("positions", pa.list_(_VECTOR3)),
    pa.field("occupancy", pa.list_(pa.float64())),
    pa.field("u_iso", pa.list_(pa.float64())),
    pa.field("u_aniso", pa.list_(pa.list_(pa.float64(), 6))),
    pa.field("space_group", pa.string()),
    pa.field("space_group_number", pa.int16()),
    pa.field("formula", pa.string()),
    pa.field("reduced_formula", pa.string()),
    pa.field("n_atoms", pa.int32()),
    pa.field("n_electrons", pa.float64()),
    pa.field("volume", pa.float64()),
]
GRIDS = ("amplitude", "density")
ATOM_COLUMNS = [f.name for f in _ATOMS]

CATALOGUE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok | rejected (duplicates: DUPLICATES)
        pa.field("code", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("split", pa.string()),
        pa.field("source", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("member", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("notes", pa.list_(pa.string())),
        *_ATOMS,
        # see phaseray.fingerprint.rough; null where crystals are not compared
        pa.field("chemical_system", pa.string()),
        pa.field("number_density", pa.float64()),
        pa.field("element_shares", pa.list_(pa.float64())),
    ],
    metadata={"phaseray_catalogue": str(CATALOGUE_VERSION)},
)

DUPLICATES = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string(), nullable=False),
    ],
    metadata={"phaseray_catalogue": str(CATALOGUE_VERSION)},
)


def shard_schema(shape: Shape, dtype: str = "float32") -> pa.Schema:
    """Columns of a shard. In half precision a grid is what is stored times the crystal's scale (pipeline/half.py)."""
    kind = {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    scales = [pa.field(f"{name}_scale", pa.float32(), nullable=False) for name in GRIDS] if dtype == "float16" else []
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("amplitude", pa.fixed_shape_tensor(kind, half_shape(shape))),
            pa.field("density", pa.fixed_shape_tensor(kind, shape)),
            *scales,
            pa.field("d_min", pa.float64()),
            pa.field("complete_d_min", pa.float64()),
            *_ATOMS,
        ],
        metadata={"phaseray_shards": str(SHARDS_VERSION), "grid_shape": "x".join(map(str, shape))},
    )


def atom_values(crystal: Crystal) -> dict[str, Any]:
    """A crystal as the values of ATOM_COLUMNS."""
    return {
        "cell": crystal.cell,
        "numbers": crystal.numbers,
        "isotopes": crystal.isotopes,
        "positions": list(crystal.positions),
        "occupancy": crystal.occupancy,
        "u_iso": crystal.u_iso,
        "u_aniso": None if crystal.u_aniso is None else list(crystal.u_aniso),
        "space_group": crystal.space_group,
        "space_group_number": crystal.space_group_number,
        "formula": crystal.formula,
        "reduced_formula": crystal.reduced_formula,
        "n_atoms": crystal.n_atoms,
        "n_electrons": crystal.n_electrons,
        "volume": crystal.volume,
    }


def rough_values(crystal: Crystal) -> dict[str, Any]:
    """What tells at a glance that two crystals differ, as columns of CATALOGUE."""
    return dict(zip(("chemical_system", "number_density", "element_shares"), rough(crystal), strict=True))


def crystals(table: pa.Table) -> list[Crystal]:
    """The rows of a catalogue or a shard as crystals."""
    columns = {name: table[name].combine_chunks() for name in ATOM_COLUMNS}
    ids = table["id"].to_pylist()
    sources = table["source"].to_pylist() if "source" in table.column_names else [""] * len(ids)

    def values(name: str, row: int, width: int | None = None) -> Any:
        item = columns[name][row].values
        if item is None:
            return None
        return np.asarray(item.flatten()).reshape(-1, width) if width else np.asarray(item)

    return [
        Crystal(
            cell=values("cell", row),
            numbers=values("numbers", row),
            positions=values("positions", row, 3),
            occupancy=values("occupancy", row),
            u_iso=values("u_iso", row),
            u_aniso=values("u_aniso", row, 6),
            isotopes=values("isotopes", row),
            space_group=columns["space_group"][row].as_py(),
            space_group_number=columns["space_group_number"][row].as_py(),
            id=ids[row],
            source=sources[row] or "",
        )
        for row in range(table.num_rows)
    ]


def rows_to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of this schema; what a row does not give is null."""
    return pa.table([pa.array([row.get(f.name) for row in rows], f.type) for f in schema], schema=schema)


def grids(table: pa.Table, name: str) -> np.ndarray:
    """(n, …) float32 amplitudes or densities of a shard's rows, in whichever precision they are stored."""
    column = table[name].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    stored = np.asarray(column.to_numpy_ndarray())
    if stored.dtype == np.float32:
        return stored
    return from_half(stored, table[f"{name}_scale"].to_numpy())


def tensor_column(arrays: np.ndarray) -> pa.ExtensionArray:
    """(n, …) array as a column of fixed-shape tensors, readable by plain pyarrow."""
    if len(arrays):
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(arrays))
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(arrays.dtype), arrays.shape[1:])
    return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))
