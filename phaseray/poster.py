"""poster: the experiment that phaseray starts from, and the same data and networks with one thing changed at a time.

Each training is small and runs by the plain loop in a Ray task; what it found stands in runs/, and
the same command goes on with those that lack.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from phaseray.comparison import evaluate
from phaseray.config import Config, ConfigError, PosterConfig, SearchSpace, TrainConfig, digest
from phaseray.diffraction.grid import Shape
from phaseray.diffraction.maps import zero_phase_map
from phaseray.evaluation.diagnostics import poster_diagnostics
from phaseray.evaluation.figures import mean_prediction_figure, to_png
from phaseray.evaluation.metrics import correlation_maps
from phaseray.pipeline import cluster
from phaseray.pipeline.catalogue import begin_ingest, ingest
from phaseray.pipeline.loading import Batch, open_dataset
from phaseray.pipeline.progress import Progress
from phaseray.pipeline.run_folder import open_folder
from phaseray.pipeline.shards import generate
from phaseray.pipeline.storage import read_json, write_bytes, write_json
from phaseray.tables import poster_table
from phaseray.tracking import flat_params, prepare
from phaseray.training import checkpoint
from phaseray.training.loop import fit, predict
from phaseray.training.state import TrainingState

__all__ = ["Few", "poster"]

ZERO, TRUTH = "zero phases", "truth"
AS_THE_POSTER = "as the poster"


@dataclass(frozen=True)
class Few:
    """Crystals in memory as the plain loop wants its data: n of the training split, drawn by the seed."""

    train: Batch
    digest: str
    d_min: float

    @property
    def shapes(self) -> dict[Shape, int]:
        return {self.train.shape: len(self.train)}

    def count(self, split: str) -> int:
        return len(self.train) if split == "train" else 0

    def steps(
        self, split: str, batch_size: int, world: int = 1, *, voxels: int | None = None, seed: int | None = None,
        epoch: int = 0, skip: int = 0,
    ) -> int:  # fmt: skip
        return -(-self.count(split) // batch_size)

    def batches(
        self, split: str, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1,
        shuffle: bool = True, voxels: int | None = None, skip: int = 0,
    ) -> Iterator[Batch]:  # fmt: skip
        order = np.random.default_rng([seed, epoch]).permutation(len(self.train))[skip:]
        for start in range(0, len(order), batch_size):
            yield _rows(self.train, order[start : start + batch_size])


@dataclass(frozen=True)
class Training:
    """One of the trainings: its line in the table, its seed, how many crystals (None: all)."""

    model: str
    variant: str
    structures: int | None
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        variant = self.variant.replace(" ", "_").replace("/", "_per_")
        return f"{self.model}-{self.structures or 'all'}-{variant}-s{self.seed}"


def poster(config: Config, out: str | Path) -> dict[str, Any]:
    """Ingest, generate, train all that `config.poster` asks for, judge them on the test split, write table and figures.

    Parameters
    ----------
    out
        Gets catalogue/, shards/, runs/<training>/ (network and result.json), table.md, common_pattern.png,
        report/ (the six observations on the first seed, see `evaluate`) and summary.json.

    Raises
    ------
    ConfigError
        No model, a grid that is not fixed, or fewer crystals than are to be trained on.
    """
    asked = config.poster
    if not asked.models:
        raise ConfigError("poster.models is empty: see jobs/poster.yaml")
    out = Path(out).absolute()
    began = time.monotonic()
    open_folder(out, {"command": "poster", "config_digest": digest(config)}, config)
    with begin_ingest(config, out / "catalogue") as begun, cluster.connected(config.ray):
        ingest(config, out / "catalogue", begun=begun)
        generate(config, out / "catalogue", out / "shards")
        trainings = _trainings(asked)
        lacking = [t for t in trainings if not (out / "runs" / t.name / "result.json").exists()]
        progress = Progress("poster", len(lacking), "trainings")
        data = ray.put(_crystals(str(out / "shards"), asked))
        work = ray.remote(num_cpus=1, max_calls=8)(_train)
        waiting = [work.remote(data, t, str(out)) for t in lacking]
        while waiting:
            ready, waiting = ray.wait(waiting)
            ray.get(ready)
            progress.advance(len(ready))
        progress.close()
    results = [read_json(out / "runs" / t.name / "result.json") for t in trainings]
    known = _crystals(str(out / "shards"), asked)
    lines = [*_baselines(known, config.seed), *_lines(results)]
    _common_pattern(known, trainings, out)
    models = {
        t.name: out / "runs" / t.name for t in trainings if t.variant == AS_THE_POSTER and t.seed == asked.seeds[0]
    }
    report = evaluate(
        config, out / "shards", models, out / "report", title="The poster's networks and its six observations",
        command="phaseray poster",
    )  # fmt: skip
    summary = {
        "lines": lines,
        "observations": report["observations"],
        "seeds": list(asked.seeds),
        "trained": len(trainings),
        "judged": len(known.test),
        "seconds": round(time.monotonic() - began, 1),
        "report": report["report"],
        "out": str(out),
    }
    write_bytes(out / "table.md", poster_table(summary).encode())
    write_json(out / "summary.json", summary)
    _track(config, trainings, results, out)
    return summary


def _trainings(asked: PosterConfig) -> list[Training]:
    found = []
    for model, base in asked.models.items():
        for seed in asked.seeds:
            found += [Training(model, AS_THE_POSTER, n, seed, base) for n in asked.structures]
            for variant, changed in asked.variants.items():
                values = {key: value for key, value in changed.items() if key != "structures"}
                everything = changed.get("structures") == "all"
                config = SearchSpace(train=base).with_values(values)
                found.append(Training(model, variant, None if everything else max(asked.structures), seed, config))
    return found


@dataclass(frozen=True)
class _Crystals:
    """All training crystals, those of the source among them by place, and the judged ones."""

    train: Batch
    source: np.ndarray
    test: Batch
    digest: str
    d_min: float


def _crystals(shards: str, asked: PosterConfig) -> _Crystals:
    data = replace(open_dataset(shards), streamed=False)
    if len(data.shapes) != 1:
        raise ConfigError("the poster's MLP reads one grid shape: set generate.grid to a fixed one")

    def whole(split: str) -> Batch:
        batches = list(data.batches(split, 1 << 30, shuffle=False))
        if not batches:
            raise ConfigError(f"there are no crystals in the split {split!r}")
        joined: dict[str, Any] = {"shape": batches[0].shape}
        for name in ("amplitude", "density", "volume", "cell"):
            joined[name] = np.concatenate([getattr(b, name) for b in batches])
        for name in ("ids", "numbers", "positions", "formulas", "space_groups"):
            joined[name] = [item for b in batches for item in getattr(b, name)]
        return Batch(**joined)

    train, test = whole("train"), whole("test")
    source = np.flatnonzero([id.startswith(asked.source) for id in train.ids])
    if len(source) < max(asked.structures):
        raise ConfigError(
            f"poster.structures wants {max(asked.structures)} crystals of {asked.source!r}, and the training split has "
            f"{len(source)}"
        )
    return _Crystals(train, source, _rows(test, _judged(test, asked)), data.digest, data.d_min)


def _judged(test: Batch, asked: PosterConfig) -> np.ndarray:
    return np.flatnonzero([id.startswith(asked.source) for id in test.ids])


def _rows(batch: Batch, rows: np.ndarray) -> Batch:
    picked: dict[str, Any] = {n: getattr(batch, n)[rows] for n in ("amplitude", "density", "volume", "cell")}
    for name in ("ids", "numbers", "positions", "formulas", "space_groups"):
        picked[name] = [getattr(batch, name)[i] for i in rows]
    return Batch(shape=batch.shape, **picked)


def _train(known: _Crystals, training: Training, out: str) -> None:
    """One training, and what its predictions of the judged crystals look like."""
    torch.set_num_threads(1)
    cluster.quiet()
    rng = np.random.default_rng(training.seed)
    chosen = (
        np.arange(len(known.train))
        if training.structures is None
        else np.sort(rng.permutation(known.source)[: training.structures])
    )
    data = Few(_rows(known.train, chosen), known.digest, known.d_min)
    config = training.config.model_copy(update={"seed": training.seed})
    state = fit(TrainingState.fresh(config, data, seed=training.seed), data)
    (maps,) = predict(state.to_use, state.meta, [known.test])
    folder = Path(out) / "runs" / training.name
    checkpoint.save(folder, state.to_use, state.meta)
    write_json(folder / "history.json", list(state.meta.history))
    measured = _measured(list(maps), known.test, training.seed)
    result = {
        "model": training.model, "variant": training.variant, "structures": len(chosen), "seed": training.seed,
        "train_loss": state.history[-1].train_loss, "seconds": state.seconds, **measured,
    }  # fmt: skip
    np.save(folder / "mean.npy", maps.mean(0), allow_pickle=False)
    write_json(folder / "result.json", result)


def _measured(maps: list[np.ndarray], test: Batch, seed: int) -> dict[str, Any]:
    """The poster's observations, and map_cc."""
    truths = list(test.density)
    found: dict[str, Any] = poster_diagnostics(
        maps, truths, list(test.cell), test.positions, test.numbers, seed=seed
    ).as_dict()
    cc = [float(correlation_maps(m, t).max()) for m, t in zip(maps, truths, strict=True) if np.ptp(m) > 0]
    found["map_cc"] = float(np.mean(cc)) if cc else None
    # as a picture shows it: each map by its own maximum, whatever its scale
    drawn = [float((m.sum() / m.max()) / (t.sum() / t.max())) for m, t in zip(maps, truths, strict=True) if m.max() > 0]
    found["density_ratio_drawn"] = float(np.median(drawn)) if drawn else None
    return found


def _baselines(known: _Crystals, seed: int) -> list[dict[str, Any]]:
    test = known.test
    zero = [
        zero_phase_map(a.astype(np.float64), test.shape, float(v))
        for a, v in zip(test.amplitude, test.volume, strict=True)
    ]
    rows = []
    for name, maps in ((TRUTH, [d.astype(np.float64) for d in test.density]), (ZERO, zero)):
        rows.append({"model": name, "variant": "", "structures": None, "seeds": 1, **_measured(maps, test, seed)})
    return rows


def _lines(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, with the lowest and the highest."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["model"], result["variant"], result["structures"]), []).append(result)
    lines = []
    for (model, variant, structures), members in groups.items():
        line: dict[str, Any] = {"model": model, "variant": variant, "structures": structures, "seeds": len(members)}
        for key in members[0]:
            values = [m[key] for m in members if isinstance(m.get(key), int | float)]
            if key not in line and key != "seed" and values:
                line[key] = float(np.mean(values))
                line[f"{key} range"] = [min(values), max(values)]
        lines.append(line)
    return lines


def _common_pattern(known: _Crystals, trainings: list[Training], out: Path) -> None:
    """The mean of all predictions of each network as the poster has it, and of each variant of the last one."""
    first, most = min(t.seed for t in trainings), max(t.structures or 0 for t in trainings)
    means = {"truth": known.test.density.mean(0)}
    last = trainings[-1].model
    for t in trainings:
        plain = t.variant == AS_THE_POSTER and t.structures == most
        if t.seed == first and (plain or (t.model == last and t.variant != AS_THE_POSTER)):
            means[f"{t.model}, {t.variant}"] = np.load(out / "runs" / t.name / "mean.npy", allow_pickle=False)
    write_bytes(out / "common_pattern.png", to_png(mean_prediction_figure(means), dpi=60))


def _track(config: Config, trainings: list[Training], results: list[dict[str, Any]], out: Path) -> None:
    """One MLflow run a training; those that stand are left."""
    store = prepare(config.tracking, out)
    data = open_dataset(out / "shards")
    for training, result in zip(trainings, results, strict=True):
        tags = {"stage": "poster", "name": training.name, "dataset_digest": data.digest}
        if store.find(tags):
            continue
        run = store.start(
            training.name,
            params={**flat_params(training.config), "seed": training.seed, "structures": result["structures"]},
            tags={**tags, "model": training.config.model.kind, "variant": training.variant},
        )
        named = {f"test/{k}": v for k, v in result.items() if isinstance(v, float)}
        run.metrics({**named, "best/train_loss": result["train_loss"]})
        run.dataset(data.digest, data.path)
        run.end()
