"""inspect: what a catalogue or a dataset holds, in numbers, a page and a few pictures.

Reads columns, and the grids of the few crystals that are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import phaseray
from phaseray.config import ConfigError
from phaseray.crystal import REJECTION_CODES
from phaseray.diffraction.grid import SpacingGrid
from phaseray.evaluation import histograms
from phaseray.pipeline.loading import Dataset, open_dataset
from phaseray.pipeline.storage import read_json, write_json

if TYPE_CHECKING:
    from phaseray.evaluation.dataset_figures import Example

PICTURES = 6
EXAMPLES = 3  # of each rejection code
_COLUMNS = ["id", "formula", "n_atoms", "volume", "space_group_number", "numbers"]
_DRAWN = ["id", "formula", "cell", "positions", "numbers", "density", "density_scale"]
_DRAWN_D_MIN = 1.0  # Å, of densities that are computed for the pictures of a catalogue
_DRAWN_ATOMS, _DRAWN_VOLUME = 400, 8000.0  # more would take seconds to compute, and hardly be seen


def inspect(path: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Look through a folder of shards or a catalogue; write summary.json and report.html.

    Parameters
    ----------
    out
        Default: the folder `inspect` in `path`.

    Returns
    -------
    dict
        What summary.json holds.

    Raises
    ------
    ConfigError
        The folder is neither, or not finished, or `out` belongs to another command.
    """
    path = Path(path).absolute()
    out = Path(out).absolute() if out is not None else path / "inspect"
    kind = _kind(path)
    if (out / "run.json").exists():
        raise ConfigError(f"{out} holds what another command wrote: choose another --out")
    if kind == "shards":
        data = open_dataset(path)
        summary, table = _shards(data)
        examples = _stored_examples(data, table)
    else:
        summary, table = _catalogue(path)
        examples = _computed_examples(path, table)
    summary = {
        "kind": kind,
        "folder": str(path),
        "phaseray": phaseray.__version__,
        **summary,
        **_counts(table, summary),
    }
    summary["report"] = str(_report(out, summary, list(examples)))
    summary["out"] = str(out)
    write_json(out / "summary.json", summary)
    return summary


def _kind(path: Path) -> str:
    """ "shards" or "catalogue"; ConfigError says what else there is."""
    if (path / "dataset.json").exists():
        return "shards"
    if (path / "catalogue.json").exists():
        return "catalogue"
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}")
    if (path / "run.json").exists():
        command = read_json(path / "run.json").get("command", "")
        if command in ("ingest", "generate"):
            raise ConfigError(f"{path} is not finished: the same `phaseray {command}` goes on where it stopped")
    inside = [p.parent.name for mark in ("dataset.json", "catalogue.json") for p in sorted(path.glob(f"*/{mark}"))]
    raise ConfigError(
        f"{path} holds neither shards (dataset.json) nor a catalogue (catalogue.json): give the --out folder of "
        "`phaseray generate` or `phaseray ingest`" + (f"; in it are: {', '.join(inside)}" if inside else "")
    )


def _shards(data: Dataset) -> tuple[dict[str, Any], pa.Table]:
    info = data.info
    tables = []
    for number, file in enumerate(info["files"]):
        if file["rows"]:
            columns = [*_COLUMNS, "complete_d_min"]
            table = pq.read_table(Path(data.path) / file["file"], columns=columns, partitioning=None)
            tables.append(_placed(table.replace_schema_metadata(None), file=number))
    table = pa.concat_tables(tables) if tables else _empty("complete_d_min", "file", "row")
    rejected = [(r["code"], r["id"], r["reason"]) for r in info["rejections"]]
    keys = ("dataset_digest", "config_digest", "catalogue_digest", "inputs", "ok", "rejected", "rejected_before",
            "duplicates_before", "split", "shapes", "bytes", "bytes_per_crystal", "d_min")  # fmt: skip
    return {**{k: info[k] for k in keys if k in info}, "rejections": _rejections(rejected)}, table


def _catalogue(path: Path) -> tuple[dict[str, Any], pa.Table]:
    from phaseray.pipeline.catalogue import catalogue_facts, read_catalogue

    facts = catalogue_facts(path)
    table = read_catalogue(path, [*_COLUMNS, "status", "code", "reason", "source", "notes"])
    status = np.array(table["status"].to_pylist())
    bad = table.filter(pa.array(status == "rejected"))
    rejected = list(zip(*(bad[name].to_pylist() for name in ("code", "id", "reason")), strict=True))
    table = table.filter(pa.array(status == "ok"))
    keys = ("config_digest", "inputs", "ok", "rejected", "split")
    return {
        **{k: facts[k] for k in keys},
        "duplicates": int((status == "duplicate").sum()),
        "sources": _most_frequent(table["source"].to_pylist()),
        "with_notes": sum(bool(notes) for notes in table["notes"].to_pylist()),
        "rejections": _rejections(rejected),
    }, table


def _placed(table: pa.Table, file: int) -> pa.Table:
    """With `file` and `row`: where each row stands."""
    n = table.num_rows
    return table.append_column("file", pa.array([file] * n, pa.int32())).append_column(
        "row", pa.array(range(n), pa.int32())
    )


def _empty(*more: str) -> pa.Table:
    from phaseray.pipeline.schema import CATALOGUE

    fields = [CATALOGUE.field(name) for name in _COLUMNS] + [pa.field(name, pa.float64()) for name in more]
    return pa.schema(fields).empty_table()


def _rejections(rejected: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """By code, the most frequent first, with a few examples spread over the inputs."""
    by_code: dict[str, list[tuple[str, str]]] = {}
    for code, id, reason in rejected:
        by_code.setdefault(code, []).append((id, reason))
    return [
        {
            "code": code,
            "meaning": REJECTION_CODES.get(code, ""),
            "count": len(found),
            "examples": [{"id": id, "sentence": reason} for id, reason in found[:: -(-len(found) // EXAMPLES)]],
        }
        for code, found in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _most_frequent(values: list[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _counts(table: pa.Table, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The histograms: for each a list of (range or name, number of crystals)."""
    n_atoms, volume = (table[name].to_numpy() for name in ("n_atoms", "volume"))
    groups = table["space_group_number"].fill_null(0).to_numpy()
    atoms = table["numbers"].combine_chunks()
    crystal = np.repeat(np.arange(len(atoms)), np.diff(atoms.offsets.to_numpy()))
    found = {
        "n_atoms": {**histograms.summary(n_atoms), "counts": histograms.histogram(n_atoms)},
        "volume": {**histograms.summary(volume), "counts": histograms.histogram(volume)},
        "crystal_system": {"counts": histograms.crystal_systems(groups)},
        "space_group": {"counts": histograms.space_groups(groups)},
        "elements": {"counts": histograms.elements(atoms.flatten().to_numpy(), crystal)},
    }
    if "complete_d_min" in table.column_names:
        d = table["complete_d_min"].to_numpy()
        found["resolution"] = {**histograms.summary(d), "counts": histograms.resolutions(d, facts["d_min"])}
    return {"histograms": found}


def _chosen(table: pa.Table) -> list[int]:
    """Rows of a few crystals from small to large, no formula twice."""
    order = np.argsort(table["n_atoms"].to_numpy(), kind="stable")
    formulas = table["formula"].to_pylist()
    rows: dict[str, int] = {}
    for i in np.linspace(0.05, 0.95, PICTURES) * (len(order) - 1):
        for row in order[round(float(i)) :]:
            if formulas[row] not in rows:
                rows[formulas[row]] = int(row)
                break
    return list(rows.values())


def _stored_examples(data: Dataset, table: pa.Table) -> Iterator[Example]:
    from phaseray.evaluation.dataset_figures import Example
    from phaseray.pipeline.schema import grids

    files, rows = table["file"].to_pylist(), table["row"].to_pylist()
    for i in _chosen(table):
        crystal = _one_row(Path(data.path) / data.info["files"][files[i]]["file"], rows[i])
        yield Example(
            crystal["formula"][0].as_py(), crystal["id"][0].as_py(), grids(crystal, "density")[0],
            *(np.asarray(crystal[name][0].as_py()) for name in ("cell", "positions", "numbers")),
        )  # fmt: skip


def _one_row(path: Path, row: int) -> pa.Table:
    """One crystal of a shard, of whose grids only those before it in its row group are unpacked."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        n = file.metadata.row_group(group).num_rows
        if row < n:
            columns = [name for name in _DRAWN if name in file.schema_arrow.names]
            for i, batch in enumerate(file.iter_batches(1, row_groups=[group], columns=columns, use_threads=False)):
                if i == row:
                    return pa.Table.from_batches([batch])
        row -= n
    raise AssertionError(path)


def _computed_examples(path: Path, table: pa.Table) -> Iterator[Example]:
    from phaseray.evaluation.dataset_figures import Example
    from phaseray.pipeline.catalogue import part_path
    from phaseray.pipeline.schema import crystals

    small = (table["n_atoms"].to_numpy() <= _DRAWN_ATOMS) & (table["volume"].to_numpy() <= _DRAWN_VOLUME)
    table = table.filter(pa.array(small))
    parts, rows = table["part"].to_pylist(), table["row"].to_pylist()
    for i in _chosen(table):
        (crystal,) = crystals(pq.read_table(part_path(path, parts[i])).take([rows[i]]))
        shape = SpacingGrid(3.0).shape(crystal.cell, _DRAWN_D_MIN)
        density = phaseray.density(crystal.with_default_u_iso(0.02), shape, d_min=_DRAWN_D_MIN)
        yield Example(crystal.formula, crystal.id, density, crystal.cell, crystal.positions, crystal.numbers)


def _report(out: Path, summary: Mapping[str, Any], examples: list[Example]) -> Path:
    from phaseray.evaluation.dataset_figures import densities_figure
    from phaseray.evaluation.dataset_report import write_dataset_report
    from phaseray.evaluation.figures import to_png

    return write_dataset_report(out / "report.html", summary, to_png(densities_figure(examples)) if examples else None)
