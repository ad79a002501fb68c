"""generate: a catalogue to shards of amplitudes and densities, one grid shape a file.

shards/
  run.json, config.yaml, summary.json, dataset.json (version, units, counts, files; written last)
  plan.parquet              while it runs: which rows of the catalogue go into which file; a row group a file
  README.md                 the dataset card: what it is, how to read it, licences, whom to cite
  split=train/shape=32x32x32/part-00000.parquet
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import phaseray
from phaseray.config import Config, GenerateConfig, digest
from phaseray.crystal import Crystal, Rejection
from phaseray.diffraction.grid import Shape, complete_d_min
from phaseray.diffraction.maps import structure_factors_and_density
from phaseray.pipeline import catalogue as catalogues
from phaseray.pipeline import cluster, schema
from phaseray.pipeline.card import write_card
from phaseray.pipeline.gpu import batched, gpu_of
from phaseray.pipeline.half import errors, to_half
from phaseray.pipeline.plan import PLAN, read_plan, shape_name, write_plan
from phaseray.pipeline.progress import Progress
from phaseray.pipeline.run_folder import open_folder
from phaseray.pipeline.shared import require_shared
from phaseray.pipeline.split import SPLITS
from phaseray.pipeline.storage import file_digest, sweep, write_json, write_row_groups
from phaseray.pipeline.units import peak_memory, run_units

Grid = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

ROW_GROUP = 32  # crystals; what a reader of a few rows must read


def generate(config: Config, catalogue: str | Path, out: str | Path) -> dict[str, Any]:
    """Compute the grids of every crystal of a catalogue; go on where an earlier run stopped.

    Returns
    -------
    dict
        The facts of summary.json: counts, bytes, seconds, crystals a second.
    """
    catalogue, out = Path(catalogue).absolute(), Path(out).absolute()
    began = time.monotonic()
    facts = catalogues.catalogue_facts(catalogue)
    identity = {
        "command": "generate",
        "config_digest": digest(config.generate),
        "catalogue_digest": facts["config_digest"],
        "version": schema.SHARDS_VERSION,
    }
    open_folder(out, identity, config)
    units = write_plan(config.generate, catalogue, out / PLAN)
    todo = [u for u in units if not (out / u["file"]).exists()]
    progress = Progress("generate", sum(u["count"] for u in todo))
    with cluster.connected(config.ray):
        require_shared(out, catalogue / "catalogue.json")
        gpus = config.ray.gpus_per_actor
        worker = (str(catalogue), str(out), config.generate.model_dump(mode="json"), gpus)
        actors = cluster.computing_actors(config.ray)
        largest, digests = 0, {}
        for report in run_units(ShardWriter, worker, todo, actors=actors, num_gpus=gpus):
            largest = max(largest, report["worker_mb"])
            digests[report["file"]] = report["sha256"]
            progress.advance(report["ok"] + report["rejected"], report["rejected"])
    progress.close()
    dataset = _finish(out, config, facts, units, digests)
    write_card(out, catalogue, dataset)
    seconds = time.monotonic() - began
    n = dataset["ok"] + dataset["rejected"]
    summary = {k: v for k, v in dataset.items() if k not in ("files", "units", "rejections")}
    summary |= {"seconds": round(seconds, 2), "crystals_per_second": round(n / seconds, 1), "out": str(out)}
    summary["peak_memory_mb"] = {"driver": peak_memory(), **({"worker": largest} if largest else {})}
    write_json(out / "summary.json", summary)
    return summary


class ShardWriter:
    """Computes the grids of one shard and writes its file, some crystals at a time."""

    def __init__(self, catalogue: str, out: str, config: dict[str, Any], gpus: float = 0) -> None:
        self.catalogue, self.out = Path(catalogue), Path(out)
        self.config = GenerateConfig.model_validate(config)
        self.gpu = gpu_of(gpus) if gpus else None
        self.part = lru_cache(maxsize=16)(self._part)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        a, b, c = unit["shape"]
        part, row = read_plan(self.out / PLAN, unit["group"])
        rejections: list[dict[str, str]] = []
        worst: dict[str, list[float]] = {}
        kind = schema.shard_schema((a, b, c), self.config.dtype)

        def row_groups() -> Iterator[pa.Table]:
            for first in range(0, len(part), ROW_GROUP):
                crystals = self._crystals(part[first : first + ROW_GROUP], row[first : first + ROW_GROUP])
                made = list(self._computed(crystals, (a, b, c), rejections))
                if made:
                    yield self._table(kind, (a, b, c), made, worst)

        def notes() -> dict[str, str]:
            return {"rejections": json.dumps(rejections), "largest_errors": json.dumps(worst)}

        ok = write_row_groups(self.out / unit["file"], row_groups(), kind, notes=notes, empty=True)
        # here, side by side, and while the file is still in memory
        sha = file_digest(self.out / unit["file"])
        return {"file": unit["file"], "ok": ok, "rejected": len(rejections), "sha256": sha}

    def _crystals(self, part: Numbers, row: Numbers) -> Iterator[Crystal]:
        """Those of the given rows; rows of one part stand together."""
        for number in dict.fromkeys(part.tolist()):
            yield from schema.crystals(self.part(number).take(row[part == number]))

    def _computed(
        self, crystals: Iterable[Crystal], shape: Shape, rejections: list[dict[str, str]]
    ) -> Iterator[tuple[Crystal, Grid, Grid]]:
        crystals = list(crystals)
        together = batched(crystals, shape, self.config, self.gpu) if self.gpu else None
        for i, crystal in enumerate(crystals):
            try:
                yield crystal, *(together[i] if together else self.grids(crystal, shape))
            except Rejection as rejection:
                rejections.append({"id": crystal.id, "code": rejection.code, "reason": rejection.sentence})
            except (ValueError, ArithmeticError, MemoryError) as error:
                rejections.append({"id": crystal.id, "code": "internal", "reason": repr(error)})

    def grids(self, crystal: Crystal, shape: Shape) -> tuple[Grid, Grid]:
        """|F| half grid and density of one crystal, both float32."""
        if np.prod(shape) > self.config.max_grid_points:
            raise Rejection(
                "too_large",
                f"{shape_name(shape)} points are over generate.max_grid_points = {self.config.max_grid_points}",
            )
        crystal = crystal.with_default_u_iso(self.config.default_u_iso)
        f, rho = structure_factors_and_density(crystal, shape, self.config.d_min)
        return abs(f), rho

    def _part(self, part: int) -> pa.Table:
        return pq.read_table(catalogues.part_path(self.catalogue, part))

    def _table(
        self, kind: pa.Schema, shape: Shape, made: list[tuple[Crystal, Grid, Grid]], worst: dict[str, list[float]]
    ) -> pa.Table:
        rows = [
            {
                "id": crystal.id,
                "d_min": self.config.d_min,
                "complete_d_min": complete_d_min(crystal.cell, shape, self.config.d_min),
                **schema.atom_values(crystal),
            }
            for crystal, _, _ in made
        ]
        columns: dict[str, Any] = {}
        for place, name in enumerate(schema.GRIDS, 1):
            grids = np.array([m[place] for m in made], np.float32)
            if self.config.dtype == "float32":
                columns[name] = schema.tensor_column(grids)
            else:
                half, scale = to_half(grids)
                columns[name] = schema.tensor_column(half)
                columns[f"{name}_scale"] = pa.array(scale)
                found = errors(grids, half, scale)
                worst[name] = [max(pair) for pair in zip(worst.get(name, (0.0, 0.0)), found, strict=True)]
        return pa.table(
            [columns[f.name] if f.name in columns else pa.array([r[f.name] for r in rows], f.type) for f in kind],
            schema=kind,
        )


def _finish(
    out: Path, config: Config, catalogue: dict[str, Any], units: list[dict[str, Any]], digests: dict[str, str]
) -> dict[str, Any]:
    """Count what stands in the files and write dataset.json. `digests`: of the files that this run wrote."""
    files, rejections, combined = [], [], hashlib.sha256()
    worst: dict[str, list[float]] = {}
    ok: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    size = 0
    for unit in sorted(units, key=lambda u: (SPLITS.index(u["split"]), u["shape"], u["file"])):
        path = out / unit["file"]
        meta = pq.read_metadata(path)
        sha = digests.get(unit["file"]) or file_digest(path)
        combined.update(f"{unit['file']} {sha}\n".encode())
        files.append(
            {"file": unit["file"], "split": unit["split"], "shape": unit["shape"], "rows": meta.num_rows, "sha256": sha}
        )
        rejections += json.loads(meta.metadata[b"rejections"])
        for name, found in json.loads(meta.metadata[b"largest_errors"]).items():
            worst[name] = [max(pair) for pair in zip(worst.get(name, (0.0, 0.0)), found, strict=True)]
        ok[unit["split"]] += meta.num_rows
        shapes[shape_name(tuple(unit["shape"]))] += meta.num_rows
        size += path.stat().st_size
    n = sum(ok.values())
    if n + len(rejections) != catalogue["ok"]:
        raise RuntimeError(
            f"{out}: {n} crystals and {len(rejections)} rejections of {catalogue['ok']}: please report it"
        )
    columns = schema.shard_schema((4, 4, 4), config.generate.dtype).names
    dataset = {
        "shards_version": schema.SHARDS_VERSION,
        "phaseray": phaseray.__version__,
        "config_digest": digest(config.generate),
        "catalogue_digest": catalogue["config_digest"],
        "dataset_digest": combined.hexdigest()[:16],
        "generate": config.generate.model_dump(mode="json"),
        "d_min": config.generate.d_min,
        "inputs": catalogue["inputs"],
        "ok": n,
        "rejected": len(rejections),
        "rejected_by_code": dict(Counter(r["code"] for r in rejections)),
        "rejected_before": catalogue["rejected"],
        "duplicates_before": catalogue["duplicates"],
        "split": {s: ok[s] for s in SPLITS},
        "shapes": dict(shapes),
        "bytes": size,
        "bytes_per_crystal": round(size / n) if n else 0,
        # of what is stored: of its grid's largest value, and rms over rms; of the worst crystal
        "storage_error": {k: dict(zip(("largest", "rms"), v, strict=True)) for k, v in worst.items()},
        "units": {k: v for k, v in schema.UNITS.items() if k in columns},
        "rejections": rejections,
        "files": files,
    }
    write_json(out / "dataset.json", dataset)
    (out / PLAN).unlink(missing_ok=True)
    for folder in {out, *((out / unit["file"]).parent for unit in units)}:
        sweep(folder)
    return dataset
