"""The dataset card: a README.md beside the shards, as the Hugging Face hub reads it and people do.

Its text depends on the data and their configuration alone: no time, no machine, no folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from phaseray.crystal import REJECTION_CODES
from phaseray.pipeline import catalogue as catalogues
from phaseray.pipeline import schema
from phaseray.pipeline.origins import Origin, origin, portable
from phaseray.pipeline.storage import write_text

MOST_SHAPES = 16  # described to Hugging Face; with a grid by spacing there can be hundreds

_COLUMNS: Mapping[str, tuple[str, str]] = {
    "id": ("string", "of the crystal: its source, then its name there"),
    "amplitude": ("{dtype} (nx, ny, nz // 2 + 1)", "|F| of the whole cell"),
    "density": ("{dtype} (nx, ny, nz)", "density of the whole cell, cut off at d_min"),
    "amplitude_scale": ("float32", "what `amplitude` is to be multiplied by: a power of two"),
    "density_scale": ("float32", "what `density` is to be multiplied by: a power of two"),
    "d_min": ("float64", "resolution asked for"),
    "complete_d_min": ("float64", "resolution down to which the grid holds every reflection"),
    "cell": ("float64 (6)", "a, b, c, α, β, γ"),
    "numbers": ("int16 (n)", "atomic numbers of all atoms of the cell"),
    "isotopes": ("int16 (n)", "mass numbers, 0 for the natural mixture"),
    "positions": ("float64 (n, 3)", "of the atoms"),
    "occupancy": ("float64 (n)", "of the sites"),
    "u_iso": ("float64 (n)", "mean square displacement, 0 where not known"),
    "u_aniso": ("float64 (n, 6) or null", "anisotropic displacements, where known"),
    "space_group": ("string or null", "Hermann-Mauguin symbol of this setting, where known"),
    "space_group_number": ("int16 or null", "of the International Tables, where known"),
    "formula": ("string", "of the whole cell"),
    "reduced_formula": ("string", "what the splits are made by"),
    "n_atoms": ("int32", "atoms in the cell"),
    "n_electrons": ("float64", "F(000)"),
    "volume": ("float64", "of the cell"),
}


def write_card(out: Path, catalogue: Path, dataset: Mapping[str, Any]) -> None:
    """Write README.md into a folder of shards, from its dataset.json and from the catalogue it was made of."""
    kinds: Counter[str] = Counter()
    for rows in catalogues.iterate_catalogue(catalogue, ["status", "source"]):
        kinds.update(rows.filter(pc.equal(rows["status"], "ok"))["source"].to_pylist())
    config = yaml.safe_load((catalogue / "config.yaml").read_text(encoding="utf-8"))
    files = {"x".join(map(str, file["shape"])): file["file"] for file in dataset["files"]}
    schemas = {shape: pq.read_schema(out / files[shape]) for shape in _shapes(dataset)[:MOST_SHAPES]}
    write_text(out / "README.md", card(dataset, catalogues.catalogue_facts(catalogue), config, kinds, schemas))


def card(
    dataset: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    config: Mapping[str, Any],
    kinds: Mapping[str, int],
    schemas: Mapping[str, pa.Schema],
) -> str:
    """The text of the card.

    Parameters
    ----------
    dataset, catalogue
        What dataset.json and catalogue.json hold.
    config
        config.yaml of the catalogue.
    kinds : kind of source to number of crystals
    schemas : grid shape to the columns of its files; the most frequent shapes are enough
    """
    sources = list(config.get("ingest", {}).get("sources", []))
    origins = {kind: origin(kind, sources) for kind in sorted(kinds)}
    parts = [
        _front_matter(dataset, origins, schemas),
        _what(dataset, catalogue),
        _columns(dataset, schemas),
        _splits(dataset),
        _reading(dataset),
        _made(dataset, catalogue, config),
        _sources(origins, kinds),
    ]
    return "\n".join(parts)


def _front_matter(dataset: Mapping[str, Any], origins: Mapping[str, Origin], schemas: Mapping[str, pa.Schema]) -> str:
    licences = sorted({o.licence for o in origins.values()}) or ["other"]
    values: dict[str, Any] = {
        "license": licences[0] if len(licences) == 1 else licences,
        "pretty_name": _title(dataset),
        "size_categories": [_size(dataset["ok"])],
        "task_categories": ["other"],
        "tags": ["chemistry", "crystallography", "electron-density", "phase-problem", "x-ray-diffraction"],
    }
    # Hugging Face cannot work out tensors by itself; without these lines it refuses the files
    values["configs"] = [
        {
            "config_name": shape,
            "data_files": [
                {"split": split, "path": f"split={split}/shape={shape}/*.parquet"}
                for split in _split_rows(dataset, shape)
            ],
        }
        for shape in schemas
    ]
    values["dataset_info"] = [{"config_name": s, "features": features(columns)} for s, columns in schemas.items()]
    values = {key: value for key, value in values.items() if value}
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def features(columns: pa.Schema) -> list[dict[str, Any]]:
    """Columns as Hugging Face's `datasets` writes them in YAML; a tensor is a list of fixed length."""
    described = []
    for field in columns:
        kind = _feature(field.type)
        described.append({"name": field.name, **(kind if isinstance(kind, dict) else {"dtype": kind})})
    return described


def _feature(kind: pa.DataType) -> Any:
    if isinstance(kind, pa.FixedShapeTensorType):
        return {"list": _feature(kind.value_type), "length": int(np.prod(kind.shape))}
    if pa.types.is_fixed_size_list(kind):
        return {"list": _feature(kind.value_type), "length": kind.list_size}
    if pa.types.is_list(kind):
        return {"list": _feature(kind.value_type)}
    return {"double": "float64", "float": "float32", "halffloat": "float16"}.get(str(kind), str(kind))


def _what(dataset: Mapping[str, Any], catalogue: Mapping[str, Any]) -> str:
    grid = dataset["generate"]["grid"]
    if grid["kind"] == "fixed":
        grids = f"on {grid['n']} × {grid['n']} × {grid['n']} points, whatever the cell"
    else:
        grids = f"with {grid['points_per_d_min']:g} points a d_min, so the shape follows the cell"
    lines = [
        f"# {_title(dataset)}",
        "",
        f"{dataset['ok']:,} crystal structures, each with the amplitudes |F| that an X-ray experiment measures and the "
        f"electron density that the lost phases would give, to d_min = {dataset['d_min']:g} Å, {grids}. "
        "Amplitudes are computed from the atoms: complete, without noise, without absorption.",
        "",
        f"Of {catalogue['inputs']:,} inputs {catalogue['ok']:,} were read"
        + (f", {catalogue['rejected']:,} rejected" if catalogue["rejected"] else "")
        + (f", {catalogue['duplicates']:,} left out as duplicates" if catalogue.get("duplicates") else "")
        + (f"; of those read, {dataset['rejected']:,} had no grids computed." if dataset["rejected"] else "."),
    ]
    codes = Counter(catalogue.get("rejected_by_code", {})) + Counter(dataset["rejected_by_code"])
    if codes:
        rows = [
            (f"`{code}`", f"{count:,}", REJECTION_CODES.get(code, ""))
            for code, count in sorted(codes.items(), key=lambda item: (-item[1], item[0]))
        ]
        lines += ["", *_table(("rejected", "inputs", "meaning"), rows)]
    return "\n".join([*lines, ""])


def _columns(dataset: Mapping[str, Any], schemas: Mapping[str, pa.Schema]) -> str:
    rows = []
    for field in next(iter(schemas.values()), schema.shard_schema((4, 4, 4))):
        kind, meaning = _COLUMNS.get(field.name, (str(field.type), ""))
        if isinstance(field.type, pa.FixedShapeTensorType):
            kind = kind.format(dtype=_feature(field.type.value_type))
        rows.append((f"`{field.name}`", kind, dataset["units"].get(field.name, ""), meaning))
    return "\n".join(
        [
            "## Columns",
            "",
            *_table(("column", "type", "unit", "what"), rows),
            "",
            *_precision(dataset),
            "Signs: F(h) = Σ f exp(+2πi h·x), ρ(x) = (1/V) Σ F exp(−2πi h·x). Index n/2 of an axis of F is empty, as "
            "it cannot tell h from −h.",
            "",
        ]
    )


def _precision(dataset: Mapping[str, Any]) -> list[str]:
    error = dataset.get("storage_error")
    if not error:
        return []
    said = ", ".join(
        f"{name}: {found['largest']:.1e} of the grid's largest value, {found['rms']:.1e} in rms over rms"
        for name, found in error.items()
    )
    return [f"Grids are in half precision, times a power of two a crystal. Error of the worst crystal: {said}.", ""]


def _splits(dataset: Mapping[str, Any]) -> str:
    shapes = _shapes(dataset)
    rows = [
        (shape, *(f"{_split_rows(dataset, shape).get(split, 0):,}" for split in dataset["split"]))
        for shape in shapes[:MOST_SHAPES]
    ]
    if len(shapes) > MOST_SHAPES:
        rest = [_split_rows(dataset, shape) for shape in shapes[MOST_SHAPES:]]
        rows.append(
            (f"{len(rest)} more shapes", *(f"{sum(r.get(split, 0) for r in rest):,}" for split in dataset["split"]))
        )
    if len(shapes) > 1:
        rows.append(("all", *(f"{n:,}" for n in dataset["split"].values())))
    return "\n".join(
        [
            "## Splits and grids",
            "",
            *_table(("grid", *dataset["split"]), rows),
            "",
            "Splits are by a hash of the reduced formula: all crystals of one composition are in the same split, on "
            "any machine. Files hold one grid shape each: `split=…/shape=…/part-….parquet`.",
            "",
        ]
    )


def _reading(dataset: Mapping[str, Any]) -> str:
    shapes = _shapes(dataset)
    if not shapes:
        return ""
    shape = shapes[0]
    split = next(iter(_split_rows(dataset, shape)))
    numbers = ", ".join(shape.split("x"))
    half = dataset["generate"].get("dtype") == "float16"
    scaled = '\ndensity = density.astype("float32") * table["density_scale"].to_numpy()[:, None, None, None]' * half
    scaled_one = '\ndensity = density.astype("float32") * data[0]["density_scale"]' * half
    return f"""## Reading it
`FOLDER` is where this file is.

```python
import pyarrow.parquet as pq

table = pq.ParquetFile("FOLDER/split={split}/shape={shape}/part-00000.parquet").read()
density = table["density"].combine_chunks().to_numpy_ndarray()  # (n, {numbers}){scaled}
```
```python
from datasets import load_dataset

data = load_dataset("FOLDER", "{shape}", split="{split}").with_format("numpy")
density = data[0]["density"].reshape({numbers}){scaled_one}
```
"""


def _made(dataset: Mapping[str, Any], catalogue: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    made = {
        "seed": config.get("seed", 0),
        "ingest": portable(config.get("ingest", {})),
        "generate": dataset["generate"],
    }
    facts = [
        ("phaseray", dataset["phaseray"]),
        ("dataset digest", f"`{dataset['dataset_digest']}`"),
        ("config digest", f"`{dataset['config_digest']}`"),
        ("catalogue digest", f"`{dataset['catalogue_digest']}`"),
        ("shards version", str(dataset["shards_version"])),
        ("size", f"{dataset['bytes'] / 1e6:,.1f} MB, {dataset['bytes_per_crystal'] / 1e3:,.1f} kB a crystal"),
    ]
    return "\n".join(
        [
            "## How it was made",
            "",
            "    phaseray ingest --config config.yaml --out catalogue",
            "    phaseray generate --config config.yaml --catalogue catalogue --out shards",
            "",
            *_table(("", ""), facts),
            "",
            "<details><summary>config.yaml</summary>",
            "",
            "```yaml",
            yaml.safe_dump(made, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110).rstrip(),
            "```",
            "</details>",
            "",
        ]
    )


def _sources(origins: Mapping[str, Origin], kinds: Mapping[str, int]) -> str:
    lines = ["## Sources, licence, citation", ""]
    for kind, known in origins.items():
        lines += [f"**{known.name}** ({kinds[kind]:,} crystals; licence: {known.licence}). {known.words}", ""]
        lines += [f"- {citation}" for citation in known.citations]
        lines += [""] * bool(known.citations)
    lines.append("Amplitudes and densities were computed with phaseray (MIT).")
    return "\n".join([*lines, ""])


def _title(dataset: Mapping[str, Any]) -> str:
    return f"Amplitudes and densities of {dataset['ok']:,} crystals at {dataset['d_min']:g} Å"


def _size(n: int) -> str:
    """Size category as the hub names them."""
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    for i, name in enumerate(names):
        if n < 1000 * 10**i:
            return f"n<{name}" if i == 0 else f"{names[i - 1]}<n<{name}"
    return "n>1B"


def _shapes(dataset: Mapping[str, Any]) -> list[str]:
    """Grid shapes that hold crystals, the most frequent first."""
    counts = {shape: n for shape, n in dataset["shapes"].items() if n}
    return sorted(counts, key=lambda shape: (-counts[shape], [int(n) for n in shape.split("x")]))


def _split_rows(dataset: Mapping[str, Any], shape: str) -> dict[str, int]:
    """Crystals of a grid shape in each split that has any."""
    rows: Counter[str] = Counter()
    for file in dataset["files"]:
        if "x".join(map(str, file["shape"])) == shape:
            rows[file["split"]] += file["rows"]
    return {split: rows[split] for split in dataset["split"] if rows[split]}


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings), *(f"| {' | '.join(row)} |" for row in cells)]
