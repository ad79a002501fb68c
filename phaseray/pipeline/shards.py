"""generate: a catalogue to shards of amplitudes and densities, one grid shape a file.

shards/
  run.json, config.yaml, summary.json, dataset.json (version, units, counts, files; written last)
  README.md                 the dataset card: what it is, how to read it, licences, whom to cite
  split=train/shape=32x32x32/part-00000.parquet
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import phaseray
from phaseray.config import Config, GenerateConfig, digest
from phaseray.crystal import Crystal, Rejection
from phaseray.diffraction.grid import Shape, complete_d_min, half_shape
from phaseray.diffraction.maps import structure_factors_and_density
from phaseray.pipeline import catalogue as catalogues
from phaseray.pipeline import cluster, schema
from phaseray.pipeline.card import write_card
from phaseray.pipeline.gpu import batched, gpu_of
from phaseray.pipeline.progress import Progress
from phaseray.pipeline.run_folder import open_folder
from phaseray.pipeline.split import SPLITS
from phaseray.pipeline.storage import file_digest, sweep, write_json, write_table
from phaseray.pipeline.units import run_units

Grid = npt.NDArray[np.float32]

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
    units = _plan(config.generate, catalogue)
    todo = [u for u in units if not (out / u["file"]).exists()]
    progress = Progress("generate", sum(len(u["rows"]) for u in todo))
    with cluster.connected(config.ray):
        gpus = config.ray.gpus_per_actor
        worker = (str(catalogue), str(out), config.generate.model_dump(mode="json"), gpus)
        actors = cluster.computing_actors(config.ray)
        for report in run_units(_ShardWriter, worker, todo, actors=actors, num_gpus=gpus):
            progress.advance(report["ok"] + report["rejected"], report["rejected"])
    progress.close()
    dataset = _finish(out, config, facts, units)
    write_card(out, catalogue, dataset)
    seconds = time.monotonic() - began
    n = dataset["ok"] + dataset["rejected"]
    summary = {k: v for k, v in dataset.items() if k not in ("files", "units", "rejections")}
    summary |= {"seconds": round(seconds, 2), "crystals_per_second": round(n / seconds, 1), "out": str(out)}
    write_json(out / "summary.json", summary)
    return summary


def shape_name(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _plan(config: GenerateConfig, catalogue: Path) -> list[dict[str, Any]]:
    """Which rows of the catalogue go into which file: by split and shape, in the catalogue's order."""
    table = catalogues.read_catalogue(catalogue, ["status", "split", "cell"])
    table = table.filter(pc.equal(table["status"], "ok"))
    cells = np.asarray(table["cell"].combine_chunks().flatten()).reshape(-1, 6)
    groups: dict[tuple[str, Shape], list[tuple[int, int]]] = defaultdict(list)
    places = zip(cells, *(table[name].to_pylist() for name in ("split", "part", "row")), strict=True)
    for cell, split, part, row in places:
        groups[split, config.grid.shape(cell, config.d_min)].append((part, row))
    return [
        {
            "file": f"split={split}/shape={shape_name(shape)}/part-{first // config.rows_per_shard:05d}.parquet",
            "split": split,
            "shape": list(shape),
            "rows": rows[first : first + config.rows_per_shard],
        }
        for (split, shape), rows in sorted(groups.items(), key=lambda g: (SPLITS.index(g[0][0]), g[0][1]))
        for first in range(0, len(rows), config.rows_per_shard)
    ]


class _ShardWriter:
    """Computes the grids of one shard and writes its file."""

    def __init__(self, catalogue: str, out: str, config: dict[str, Any], gpus: float = 0) -> None:
        self.catalogue, self.out = Path(catalogue), Path(out)
        self.config = GenerateConfig.model_validate(config)
        self.gpu = gpu_of(gpus) if gpus else None
        self.part = lru_cache(maxsize=16)(self._part)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        a, b, c = unit["shape"]
        by_part: dict[int, list[int]] = defaultdict(list)
        for part, row in unit["rows"]:
            by_part[part].append(row)
        made, rejections = [], []
        for part, numbers in by_part.items():
            crystals = list(schema.crystals(self.part(part).take(numbers)))
            together = batched(crystals, (a, b, c), self.config, self.gpu) if self.gpu else None
            for i, crystal in enumerate(crystals):
                try:
                    made.append((crystal, *(together[i] if together else self.grids(crystal, (a, b, c)))))
                except Rejection as rejection:
                    rejections.append({"id": crystal.id, "code": rejection.code, "reason": rejection.sentence})
                except (ValueError, ArithmeticError, MemoryError) as error:
                    rejections.append({"id": crystal.id, "code": "internal", "reason": repr(error)})
        self._write(unit["file"], (a, b, c), made, rejections)
        return {"file": unit["file"], "ok": len(made), "rejected": len(rejections)}

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

    def _write(
        self, file: str, shape: Shape, made: list[tuple[Crystal, Grid, Grid]], rejections: list[dict[str, str]]
    ) -> None:
        kind = schema.shard_schema(shape)
        rows = [
            {
                "id": crystal.id,
                "d_min": self.config.d_min,
                "complete_d_min": complete_d_min(crystal.cell, shape, self.config.d_min),
                **schema.atom_values(crystal),
            }
            for crystal, _, _ in made
        ]
        grids = {
            "amplitude": np.array([m[1] for m in made], np.float32).reshape(-1, *half_shape(shape)),
            "density": np.array([m[2] for m in made], np.float32).reshape(-1, *shape),
        }
        columns = [
            schema.tensor_column(grids[f.name]) if f.name in grids else pa.array([r[f.name] for r in rows], f.type)
            for f in kind
        ]
        # beside the data, so that one rename makes both final
        notes = {**(kind.metadata or {}), b"rejections": json.dumps(rejections).encode()}
        table = pa.table(columns, schema=kind).replace_schema_metadata(notes)
        write_table(self.out / file, table, row_group_size=ROW_GROUP)


def _finish(out: Path, config: Config, catalogue: dict[str, Any], units: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what stands in the files and write dataset.json."""
    files, rejections, combined = [], [], hashlib.sha256()
    ok: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    size = 0
    for unit in units:
        path = out / unit["file"]
        meta = pq.read_metadata(path)
        sha = file_digest(path)
        combined.update(f"{unit['file']} {sha}\n".encode())
        files.append(
            {"file": unit["file"], "split": unit["split"], "shape": unit["shape"], "rows": meta.num_rows, "sha256": sha}
        )
        rejections += json.loads(meta.metadata[b"rejections"])
        ok[unit["split"]] += meta.num_rows
        shapes[shape_name(tuple(unit["shape"]))] += meta.num_rows
        size += path.stat().st_size
    n = sum(ok.values())
    if n + len(rejections) != catalogue["ok"]:
        raise RuntimeError(
            f"{out}: {n} crystals and {len(rejections)} rejections of {catalogue['ok']}: please report it"
        )
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
        "units": {k: v for k, v in schema.UNITS.items() if k in schema.shard_schema((4, 4, 4)).names},
        "rejections": rejections,
        "files": files,
    }
    write_json(out / "dataset.json", dataset)
    for folder in {out, *((out / unit["file"]).parent for unit in units)}:
        sweep(folder)
    return dataset
