"""ingest: crystals from any source to a catalogue, one Parquet row an input.

catalogue/
  run.json, config.yaml, summary.json, catalogue.json (version, units, counts; written last)
  inputs.parquet            the manifest: every input's id, place, size, digest where known; a row group a part
  parts/part-00000.parquet  one row an input, in the order of inputs.parquet: ok, or rejected with its reason
  held_out.json             keys of the test sets, where ingest.hold_out names some
  spool/, listing/, fingerprints/   while it runs: members of archives that cannot be read from the middle;
                            what each task has listed; what crystals are compared by
  duplicates.parquet        which of those that are ok are the same structure as one before them
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import phaseray
from phaseray.config import Config, ConfigError, IngestConfig, digest
from phaseray.pipeline import cluster, schema
from phaseray.pipeline.duplicates import FingerprintWriter, mark_duplicates, write_candidates
from phaseray.pipeline.holding_out import read_held_out, without_held_out, write_held_out
from phaseray.pipeline.manifest import Listing
from phaseray.pipeline.progress import Progress
from phaseray.pipeline.reading import Attempt, read_rows
from phaseray.pipeline.run_folder import open_folder
from phaseray.pipeline.shared import require_shared
from phaseray.pipeline.storage import read_json, sweep, write_json, write_table
from phaseray.pipeline.units import peak_memory, run_units
from phaseray.sources import InputRef


def ingest(config: Config, out: str | Path, *, begun: Listing | None = None) -> dict[str, Any]:
    """Read, check and write down every input of every source; go on where an earlier run stopped.

    Parameters
    ----------
    begun : Listing or None
        Of `begin_ingest`, where Ray is started before this is called.

    Returns
    -------
    dict
        The facts of summary.json: counts by status, code and split, seconds (with the start of Ray, if it is
        started for this), crystals a second.
    """
    out = Path(out).absolute()
    with ExitStack() as stack:
        listing = begun or stack.enter_context(begin_ingest(config, out))
        stack.enter_context(cluster.connected(config.ray))
        require_shared(out)
        total = listing.write()
        rows = config.ingest.rows_per_part
        parts = [{"part": i, "count": min(rows, total - first)} for i, first in enumerate(range(0, total, rows))]
        todo = [p for p in parts if not part_path(out, p["part"]).exists()]
        progress = Progress("ingest", sum(p["count"] for p in todo))
        worker = (str(out), config.ingest.model_dump(mode="json"))
        largest = 0
        for report in run_units(_PartWriter, worker, todo, actors=cluster.computing_actors(config.ray)):
            largest = max(largest, report["worker_mb"])
            progress.advance(report["ok"] + report["rejected"], report["rejected"])
        progress.close()
        if todo or not (out / "duplicates.parquet").exists():
            largest = max(largest, _mark_duplicates(config, out, parts))
    summary = _finish(out, config, parts, total)
    seconds = time.monotonic() - listing.began
    summary |= {"seconds": round(seconds, 2), "crystals_per_second": round(total / seconds, 1), "out": str(out)}
    summary["peak_memory_mb"] = {"driver": peak_memory(), **({"worker": largest} if largest else {})}
    write_json(out / "summary.json", summary)
    return summary


def begin_ingest(config: Config, out: str | Path) -> Listing:
    """What `ingest` can do without Ray: open the folder, and begin to list while Ray starts; for a `with` block."""
    began = time.monotonic()
    out = Path(out).absolute()
    identity = {
        "command": "ingest",
        "config_digest": digest(config.ingest, config.seed),
        "version": schema.CATALOGUE_VERSION,
    }
    open_folder(out, identity, config)
    write_held_out(config.ingest, config.seed, out)
    return Listing(config, out, began=began)


def part_path(catalogue: Path, part: int) -> Path:
    return catalogue / "parts" / f"part-{part:05d}.parquet"


def read_catalogue(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of a finished catalogue, in order, with `part` and `row`: where each of them stands.

    `status` is ok, rejected or duplicate; of a duplicate, `duplicate_of` is the id of the crystal that
    is used in its stead (to be had by itself, or with all columns).

    Raises
    ------
    ConfigError
        There is no finished catalogue.
    """
    return pa.concat_tables(iterate_catalogue(path, columns))


def iterate_catalogue(path: str | Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """As `read_catalogue`, part by part."""
    path = Path(path)
    facts = catalogue_facts(path)
    # id too where nothing else is asked for: a table without columns has no rows
    own = None if columns is None else [name for name in columns if name != "duplicate_of"] or ["id"]
    named = columns is None or "duplicate_of" in columns
    duplicates = pq.read_table(path / "duplicates.parquet", columns=["part", "row", *["duplicate_of"] * named])
    ends = np.searchsorted(duplicates["part"].to_numpy(), np.arange(facts["parts"] + 1))
    for part in range(facts["parts"]):
        table = pq.read_table(part_path(path, part), columns=own)
        n = table.num_rows
        marked = duplicates.slice(ends[part], ends[part + 1] - ends[part])
        table = _with_duplicates(table, marked, named)
        table = table.append_column("part", pa.array([part] * n, pa.int32()))
        yield table.append_column("row", pa.array(range(n), pa.int32()))


def _with_duplicates(table: pa.Table, marked: pa.Table, wanted: bool) -> pa.Table:
    rows = marked["row"].to_pylist()
    if rows and "status" in table.column_names:
        status = table["status"].to_pylist()
        for row in rows:
            status[row] = "duplicate"
        table = table.set_column(table.column_names.index("status"), table.field("status"), pa.array(status))
    if wanted:
        of: list[str | None] = [None] * table.num_rows
        for row, first in zip(rows, marked["duplicate_of"].to_pylist(), strict=True):
            of[row] = first
        table = table.append_column("duplicate_of", pa.array(of, pa.string()))
    return table


def catalogue_facts(path: str | Path) -> dict[str, Any]:
    """What catalogue.json says; ConfigError where there is none."""
    facts = Path(path) / "catalogue.json"
    if not facts.exists():
        raise ConfigError(
            f"{path} holds no finished catalogue (no catalogue.json): run `phaseray ingest --out {path}` first"
        )
    return read_json(facts)  # type: ignore[no-any-return]


class _PartWriter:
    """Reads the inputs of one part and writes its catalogue file."""

    def __init__(self, out: str, config: dict[str, Any]) -> None:
        self.out, self.config = Path(out), IngestConfig.model_validate(config)
        self.held_out = read_held_out(self.out)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        # row groups of inputs.parquet are the parts
        inputs = pq.ParquetFile(self.out / "inputs.parquet").read_row_group(unit["part"])
        refs = [InputRef(**row) for row in inputs.to_pylist()]
        path = part_path(self.out, unit["part"])
        attempt = Attempt(path)
        rows = read_rows(refs, self.config, spool=self.out / "spool", careful=attempt.begin())
        if self.held_out is not None:
            rows = [without_held_out(row, self.held_out) for row in rows]
        write_table(path, schema.rows_to_table(rows, schema.CATALOGUE))
        attempt.end()
        ok = sum(row["status"] == "ok" for row in rows)
        return {"part": unit["part"], "ok": ok, "rejected": len(rows) - ok}


def _mark_duplicates(config: Config, out: Path, parts: list[dict[str, Any]]) -> int:
    """Write duplicates.parquet; the peak memory of a worker in MB, 0 where none was needed."""
    path, folder = out / "duplicates.parquet", out / "fingerprints"
    if config.ingest.duplicates == "keep":
        write_table(path, schema.DUPLICATES.empty_table())
        return 0
    files = [part_path(out, p["part"]) for p in parts]
    units = write_candidates(files, folder)
    progress = Progress("duplicates", sum(unit["count"] for unit in units))
    worker, largest = (str(out / "parts"), str(folder)), 0
    for report in run_units(FingerprintWriter, worker, units, actors=cluster.computing_actors(config.ray)):
        largest = max(largest, report["worker_mb"])
        progress.advance(report["count"])
    progress.close()
    mark_duplicates(files, folder, units, path)
    return largest


def _finish(out: Path, config: Config, parts: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """Check that every input ended exactly once, count, write catalogue.json, and sweep."""
    inputs = pq.ParquetFile(out / "inputs.parquet")
    duplicates = pq.read_table(out / "duplicates.parquet", columns=["part", "row"])
    ends = np.searchsorted(duplicates["part"].to_numpy(), np.arange(len(parts) + 1))
    status: Counter[str] = Counter()
    code: Counter[str] = Counter()
    split: Counter[str] = Counter()
    for p in parts:
        table = pq.read_table(part_path(out, p["part"]), columns=["id", "status", "code", "split"])
        wanted = inputs.read_row_group(p["part"], columns=["id"])["id"]
        if not table["id"].combine_chunks().equals(wanted.combine_chunks()):
            raise RuntimeError(
                f"{out}: the ids of part {p['part']} are not those of inputs.parquet, one to one: please report it"
            )
        marked = duplicates.slice(ends[p["part"]], ends[p["part"] + 1] - ends[p["part"]])
        table = _with_duplicates(table, marked, False)
        status.update(table["status"].to_pylist())
        code.update(pc.drop_null(table["code"]).to_pylist())
        split.update(table.filter(pc.equal(table["status"], "ok"))["split"].to_pylist())
    facts = {
        "catalogue_version": schema.CATALOGUE_VERSION,
        "phaseray": phaseray.__version__,
        "config_digest": digest(config.ingest, config.seed),
        "seed": config.seed,
        "parts": len(parts),
        "inputs": total,
        "ok": status["ok"],
        "rejected": status["rejected"],
        "duplicates": status["duplicate"],
        "rejected_by_code": _most_first(code),
        "split": _most_first(split),
        "units": {k: v for k, v in schema.UNITS.items() if k in schema.CATALOGUE.names},
    }
    if status["ok"] + status["rejected"] + status["duplicate"] != total:
        raise RuntimeError(f"{out}: {total} inputs, but {dict(status)} in the catalogue: please report it")
    write_json(out / "catalogue.json", facts)
    for name in ("spool", "listing", "fingerprints"):
        shutil.rmtree(out / name, ignore_errors=True)
    for folder in (out, out / "parts"):
        sweep(folder)
    return {k: v for k, v in facts.items() if k != "units"}


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
