"""ingest: crystals from any source to a catalogue, one Parquet row an input.

catalogue/
  run.json, config.yaml, summary.json, catalogue.json (version, units, counts; written last)
  inputs.parquet            every input: id, where it is
  parts/part-00000.parquet  one row an input, in the order of inputs.parquet: ok, or rejected with its reason
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import phaseray
from phaseray.config import Config, ConfigError, IngestConfig, digest
from phaseray.crystal import Crystal, Rejection
from phaseray.pipeline import cluster, schema
from phaseray.pipeline.progress import Progress
from phaseray.pipeline.run_folder import open_folder
from phaseray.pipeline.split import split_of
from phaseray.pipeline.storage import read_json, write_json, write_table
from phaseray.pipeline.units import run_units
from phaseray.sources.files import InputRef, list_inputs, read_inputs


def ingest(config: Config, out: str | Path) -> dict[str, Any]:
    """Read, check and write down every input of every source; go on where an earlier run stopped.

    Returns
    -------
    dict
        The facts of summary.json: counts by status, code and split, seconds, crystals a second.
    """
    out = Path(out).absolute()
    began = time.monotonic()
    identity = {
        "command": "ingest",
        "config_digest": digest(config.ingest, config.seed),
        "version": schema.CATALOGUE_VERSION,
    }
    open_folder(out, identity, config)
    total = _plan(config, out)
    rows = config.ingest.rows_per_part
    parts = [
        {"part": i, "first": first, "count": min(rows, total - first)} for i, first in enumerate(range(0, total, rows))
    ]
    todo = [p for p in parts if not part_path(out, p["part"]).exists()]
    progress = Progress("ingest", sum(p["count"] for p in todo))
    with cluster.connected(config.ray):
        worker = (str(out), config.ingest.model_dump(mode="json"))
        for report in run_units(_PartWriter, worker, todo, actors=cluster.computing_actors(config.ray)):
            progress.advance(report["ok"] + report["rejected"], report["rejected"])
    progress.close()
    summary = _finish(out, config, parts, total)
    seconds = time.monotonic() - began
    summary |= {"seconds": round(seconds, 2), "crystals_per_second": round(total / seconds, 1), "out": str(out)}
    write_json(out / "summary.json", summary)
    return summary


def part_path(catalogue: Path, part: int) -> Path:
    return catalogue / "parts" / f"part-{part:05d}.parquet"


def read_catalogue(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of a finished catalogue, in order, with `part` and `row`: where each of them stands.

    Raises
    ------
    ConfigError
        There is no finished catalogue.
    """
    path = Path(path)
    facts = catalogue_facts(path)
    tables = []
    for part in range(facts["parts"]):
        table = pq.read_table(part_path(path, part), columns=columns)
        n = table.num_rows
        table = table.append_column("part", pa.array([part] * n, pa.int32()))
        tables.append(table.append_column("row", pa.array(range(n), pa.int32())))
    return pa.concat_tables(tables)


def catalogue_facts(path: str | Path) -> dict[str, Any]:
    """What catalogue.json says; ConfigError where there is none."""
    facts = Path(path) / "catalogue.json"
    if not facts.exists():
        raise ConfigError(
            f"{path} holds no finished catalogue (no catalogue.json): run `phaseray ingest --out {path}` first"
        )
    return read_json(facts)  # type: ignore[no-any-return]


def _plan(config: Config, out: Path) -> int:
    """Write inputs.parquet, once; the number of inputs."""
    path = out / "inputs.parquet"
    if not path.exists():
        refs = list(list_inputs(config.ingest.sources, config.seed))
        if not refs:
            raise ConfigError("ingest.sources give no crystal at all")
        table = pa.Table.from_pylist([asdict(ref) for ref in refs])
        write_table(path, table, row_group_size=config.ingest.rows_per_part)
    return int(pq.read_metadata(path).num_rows)


class _PartWriter:
    """Reads the inputs of one part and writes its catalogue file."""

    def __init__(self, out: str, config: dict[str, Any]) -> None:
        self.out, self.config = Path(out), IngestConfig.model_validate(config)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        # row groups of inputs.parquet are the parts
        refs = [
            InputRef(**row)
            for row in pq.ParquetFile(self.out / "inputs.parquet").read_row_group(unit["part"]).to_pylist()
        ]
        found = {ref.id: self._row(ref, result, sha) for ref, result, sha in read_inputs(refs, self.config.limits)}
        rows = [found[ref.id] for ref in refs]
        write_table(part_path(self.out, unit["part"]), schema.rows_to_table(rows, schema.CATALOGUE))
        ok = sum(row["status"] == "ok" for row in rows)
        return {"part": unit["part"], "ok": ok, "rejected": len(rows) - ok}

    def _row(self, ref: InputRef, result: Crystal | Rejection, sha256: str) -> dict[str, Any]:
        known = {"id": ref.id, "uri": ref.uri, "member": ref.member, "sha256": sha256, "source": ref.kind}
        if isinstance(result, Rejection):
            return known | {"status": "rejected", "code": result.code, "reason": result.sentence}
        values = schema.atom_values(result)
        split = split_of(values["reduced_formula"], self.config.split)
        return known | {"status": "ok", "split": split, "notes": list(result.notes), **values}


def _finish(out: Path, config: Config, parts: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """Check that every input ended exactly once, count, and write catalogue.json."""
    columns = ["id", "status", "code", "split"]
    table = pa.concat_tables([pq.read_table(part_path(out, p["part"]), columns=columns) for p in parts])
    wanted = pq.read_table(out / "inputs.parquet", columns=["id"])["id"]
    if not table["id"].combine_chunks().equals(wanted.combine_chunks()):
        raise RuntimeError(f"{out}: the catalogue's ids are not those of inputs.parquet, one to one: please report it")
    counts = Counter(table["status"].to_pylist())
    facts = {
        "catalogue_version": schema.CATALOGUE_VERSION,
        "phaseray": phaseray.__version__,
        "config_digest": digest(config.ingest, config.seed),
        "seed": config.seed,
        "parts": len(parts),
        "inputs": total,
        "ok": counts.get("ok", 0),
        "rejected": counts.get("rejected", 0),
        "rejected_by_code": _counted(table["code"]),
        "split": _counted(table["split"]),
        "units": {k: v for k, v in schema.UNITS.items() if k in schema.CATALOGUE.names},
    }
    write_json(out / "catalogue.json", facts)
    return {k: v for k, v in facts.items() if k != "units"}


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    counts = Counter(pc.drop_null(column).to_pylist())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
