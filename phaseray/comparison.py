"""evaluate: shards and trained models in; scores, figures and a report out."""

from __future__ import annotations

import itertools
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import phaseray
from phaseray.config import Config, ConfigError, digest
from phaseray.evaluation import diagnostics, observations
from phaseray.evaluation.evaluate import ZERO_PHASES, Evaluation, Sample, evaluate_predictions
from phaseray.evaluation.patterns import mean_predictions
from phaseray.evaluation.report import Captioned, write_report
from phaseray.pipeline.loading import Batch, Dataset, open_dataset
from phaseray.pipeline.progress import Progress
from phaseray.pipeline.run_folder import open_folder
from phaseray.pipeline.storage import read_json, write_bytes, write_json

BATCH = 16


def evaluate(
    config: Config,
    dataset: str | Path,
    models: Mapping[str, str | Path],
    out: str | Path,
    *,
    title: str = "phaseray: models compared with zero phases",
    paragraphs: Sequence[str] = (),
    figures_first: Sequence[Captioned] = (),
    command: str | None = None,
) -> dict[str, Any]:
    """Compare models with each other and with zero phases on one split.

    Parameters
    ----------
    models : name to folder of a trained model, or its URI in MLflow (models:/phaseray-unet@champion)
    figures_first
        Shown in the report before those of the comparison.
    out
        Gets summary.json, scores.json, figures/*.png and report.html.

    Returns
    -------
    dict
        What summary.json holds: for each model the scores of SCIENCE.md and the poster's diagnostics.

    Raises
    ------
    ConfigError
        The split is empty, or a model was trained at another resolution or on another grid.
    """
    data = open_dataset(dataset)
    told = command or _command(data, models, Path(out), config.evaluate.split)
    with tempfile.TemporaryDirectory() as fetched:
        folders = {
            name: _folder(config, model, Path(fetched, str(i))) for i, (name, model) in enumerate(models.items())
        }
        return _evaluate(config, data, folders, Path(out), title, paragraphs, figures_first, told)


def _evaluate(
    config: Config, data: Dataset, models: Mapping[str, Path], out: Path, title: str, paragraphs: Sequence[str],
    figures_first: Sequence[Captioned], command: str,
) -> dict[str, Any]:  # fmt: skip
    split = config.evaluate.split
    histories = {name: _history(Path(folder)) for name, folder in models.items()}
    identity = {
        "command": "evaluate",
        "dataset_digest": data.digest,
        "config_digest": digest(config.evaluate, sorted(models)),
    }
    open_folder(out, identity, config)
    samples, predictions = _predict(data, split, config.evaluate.max_crystals, models)
    if not samples:
        raise ConfigError(f"there are no crystals in the split {split!r} of {data.path}")
    progress = Progress("score", len(samples) * (len(models) + 1), "maps")
    done = 0

    def advance(crystals: int, _: int) -> None:
        nonlocal done
        progress.advance((crystals - done) * (len(models) + 1))
        done = crystals

    evaluation = evaluate_predictions(samples, predictions, progress=advance)
    progress.close()
    predictions = {ZERO_PHASES: list(evaluation.zero_phase_maps), **predictions}
    measured = {name: _diagnostics(samples, maps, config.seed) for name, maps in predictions.items()}
    told = {name: observations.sentences(measured[name], measured[ZERO_PHASES]) for name in models}
    figures = _figures(config, samples, predictions, evaluation, histories)
    for name, (figure, _) in figures.items():
        write_bytes(out / "figures" / f"{name}.png", figure if isinstance(figure, bytes) else _png(figure))
    facts = {
        "command": command,
        "phaseray": phaseray.__version__,
        "dataset": data.path,
        "dataset digest": data.digest,
        "config digest": digest(config),
        "seed": config.seed,
        "resolution": f"{data.d_min:g} Å",
        "split": f"{split}, {len(samples)} crystals",
    }
    shown = [*figures_first, *figures.values()]
    report = write_report(out / "report.html", title, evaluation, measured, shown, told, facts, paragraphs=paragraphs)
    result = evaluation.as_dict()
    write_json(out / "scores.json", result.pop("scores"))
    summary = {
        **result,
        "diagnostics": {name: d.as_dict() for name, d in measured.items()},
        "observations": told,
        "split": split,
        "dataset_digest": data.digest,
        "d_min": data.d_min,
        "report": str(report),
        "out": str(out),
    }
    write_json(out / "summary.json", summary)
    _track(config, models, evaluation, split, [report, *(out / "figures").glob("*.png")])
    return summary


def _folder(config: Config, model: str | Path, fetched: Path) -> Path:
    """Of the model; that of one in MLflow is fetched."""
    from phaseray.tracking import fetch_model, is_model_uri

    return fetch_model(str(model), config.tracking, fetched) if is_model_uri(str(model)) else Path(model)


def _history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "history.json"
    if not path.exists() and not (folder / "model.json").exists():
        raise ConfigError(f"{folder} holds no trained model: give the --out folder of `phaseray train`")
    # a checkpoint by itself knows its history until then
    lines = read_json(path) if path.exists() else read_json(folder / "model.json")["history"]
    return [{"epoch": line["epoch"], "train/loss": line["train_loss"], "val/loss": line["val_loss"]} for line in lines]


def _predict(
    data: Dataset, split: str, most: int | None, models: Mapping[str, str | Path]
) -> tuple[list[Sample], dict[str, list[np.ndarray]]]:
    """Crystals of the split, and every model's densities of them."""
    from phaseray.training.checkpoint import load_checkpoint
    from phaseray.training.loop import predict

    loaded = {name: load_checkpoint(folder) for name, folder in models.items()}
    for name, (_, meta) in loaded.items():
        if abs(meta.d_min - data.d_min) > 1e-6:
            raise ConfigError(
                f"{name} was trained at {meta.d_min:g} Å, the shards in {data.path} are at {data.d_min:g} Å"
            )
        if meta.config.model.kind == "mlp" and set(data.shapes) != {meta.shape}:
            raise ConfigError(
                f"{name} is an MLP for grids of {meta.shape} only; {data.path} holds {sorted(data.shapes)}"
            )
    samples: list[Sample] = []
    predictions: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for batch in _up_to(data.batches(split, BATCH, shuffle=False), most):
        samples += _samples(batch, data.d_min)
        for name, (model, meta) in loaded.items():
            predictions[name] += list(next(iter(predict(model, meta, [batch]))))
    n = min(len(samples), most or len(samples))
    return samples[:n], {name: maps[:n] for name, maps in predictions.items()}


def _up_to(batches: Iterator[Batch], most: int | None) -> Iterator[Batch]:
    count = 0
    for batch in batches:
        if most is not None and count >= most:
            return
        count += len(batch)
        yield batch


def _samples(batch: Batch, d_min: float) -> list[Sample]:
    return [
        Sample(
            id=batch.ids[i],
            formula=batch.formulas[i],
            cell=batch.cell[i],
            numbers=batch.numbers[i],
            positions=batch.positions[i],
            amplitude=batch.amplitude[i],
            density=batch.density[i],
            d_min=d_min,
            space_group=batch.space_groups[i],
        )
        for i in range(len(batch))
    ]


def _diagnostics(samples: list[Sample], maps: Sequence[Any], seed: int) -> diagnostics.PosterDiagnostics:
    return diagnostics.poster_diagnostics(
        maps,
        [s.density for s in samples],
        [s.cell for s in samples],
        [s.positions for s in samples],
        [s.numbers for s in samples],
        seed=seed,
    )


def _figures(
    config: Config,
    samples: list[Sample],
    predictions: Mapping[str, Sequence[Any]],
    evaluation: Evaluation,
    histories: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Captioned]:
    from phaseray.evaluation.map_figures import mean_prediction_figure, sections_figure
    from phaseray.evaluation.score_figures import loss_curves_figure, map_cc_histogram_figure

    figures = {
        "map_cc": Captioned(
            map_cc_histogram_figure(evaluation.scores),
            "Correlation of each predicted map with the truth, at the best origin and hand. 1 is perfect; from 0.8 on, "
            "with 80 % of the atoms found, a structure counts as solved.",
        )
    }
    if histories:
        figures["loss"] = Captioned(loss_curves_figure(histories), "Loss of each model as it was trained.")
    # what all predictions on the most frequent grid have in common
    means = {name: next(iter(mean_predictions(maps).values()), None) for name, maps in predictions.items()}
    means = {"truth": next(iter(mean_predictions([s.density for s in samples]).values())), **means}
    figures["common_pattern"] = Captioned(
        mean_prediction_figure({name: mean for name, mean in means.items() if mean is not None}),
        "The mean over all crystals of the true maps, and of each model's predictions. What stands out here is in "
        "every prediction, whatever the crystal.",
    )
    for number, i in enumerate(_examples(samples, config.evaluate.examples), 1):
        sample = samples[i]
        maps = {name: values[i] for name, values in predictions.items()}
        figures[f"sections_{number}"] = Captioned(
            sections_figure(
                np.asarray(sample.density), maps, sample.cell, sample.positions, sample.numbers,
                title=f"{sample.id}   {sample.formula}",
            ),
            f"{sample.id}: sections through the strongest true peak, atoms outlined. Predictions are moved to the "
            "origin and hand that fit best.",
        )  # fmt: skip
    return figures


def _examples(samples: list[Sample], count: int) -> list[int]:
    """Crystals spread over the split; each source of crystals has its share."""
    by_source: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        by_source.setdefault(sample.id.split("/")[0], []).append(i)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_source.values()))
    return sorted([i for i in turns if i is not None][:count])


def _png(figure: Any) -> bytes:
    from phaseray.evaluation.figures import to_png

    return to_png(figure)


def _command(data: Dataset, models: Mapping[str, str | Path], out: Path, split: str) -> str:
    words = ["phaseray", "evaluate", "--dataset", data.path]
    words += [word for name, folder in models.items() for word in ("--model", f"{name}={folder}")]
    return shlex.join([*words, "--out", str(out), "--set", f"evaluate.split={split}"])


def _track(
    config: Config, models: Mapping[str, str | Path], evaluation: Evaluation, split: str, files: list[Path]
) -> None:
    """Scores into the MLflow run of each model that has one."""
    from phaseray.tracking import Run

    for name, folder in models.items():
        note = Path(folder) / "tracking.json"
        if not note.exists():
            continue
        known = read_json(note)
        run = Run(known["uri"], known["run_id"], str(Path(folder) / "outbox" / known["run_id"]))
        summary = asdict(evaluation.summaries[name])
        means = {f"{split}/{key}": value for key, value in summary["mean"].items()}
        run.metrics({**means, f"{split}/solved": summary["solved"] / max(summary["n"], 1)})
        for file in files:
            run.file(file, "evaluation")
