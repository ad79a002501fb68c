"""What came of a sweep: the table of its trials, the best configuration and network, figures, MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from phaseray.config import Config
from phaseray.evaluation.figures import to_png
from phaseray.pipeline.loading import Dataset
from phaseray.pipeline.storage import write_bytes, write_json, write_text
from phaseray.tracking import registered_name
from phaseray.training import checkpoint
from phaseray.tuning.figures import importance_figure, parallel_figure
from phaseray.tuning.log import Tracked, TrialRow
from phaseray.tuning.space import is_base, training, trial_name
from phaseray.tuning.trial import WORST

__all__ = ["finish", "table"]


def table(config: Config, rows: Sequence[TrialRow]) -> list[dict[str, Any]]:
    """One dict a trial, best first; those that never reported come last."""
    told = []
    for row in rows:
        last = row.metrics[-1] if row.metrics else {}
        trained = training(config.tune, row.point)
        epoch = int(last.get("epoch") or 0)
        score = last.get("score")
        if row.status == "ERROR":
            status = "failed"
        elif last.get("diverged"):
            status = "diverged"
        else:
            status = "done" if epoch >= trained.epochs else "stopped"
        told.append(
            {
                "trial_id": row.trial_id,
                "name": trial_name(config.tune, row.point),
                "space": row.point["space"],
                "values": dict(row.point.get(row.point["space"], {})),
                "base": is_base(config.tune, row.point),
                "status": status,
                "epochs": epoch,
                "of": trained.epochs,
                "score": None if score is None or score <= WORST else score,
                "map_cc": last.get("best/map_cc"),
                "val_loss": last.get("best/val_loss"),
                "best_epoch": last.get("best/epoch"),
                "seconds": round(sum(line.get("time/epoch_s") or 0 for line in row.metrics), 1),
            }
        )
    return sorted(told, key=lambda t: (t["score"] is None, -(t["score"] or 0)))


def finish(
    config: Config, data: Dataset, out: Path, seed: int, rows: Sequence[TrialRow], tracked: Tracked | None,
    seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Write what the sweep found; ValueError where no trial ended with a network."""
    trials = table(config, rows)
    write_json(out / "trials.json", trials)
    best = trials[0] if trials else None
    if best is None or best["score"] is None or not (out / "trials" / best["trial_id"] / "best.json").exists():
        if tracked:
            tracked.run.end("FAILED")
        raise ValueError(f"no trial of the sweep gave a network: see the errors below {out / 'ray' / 'sweep'}")
    point = next(row.point for row in rows if row.trial_id == best["trial_id"])
    chosen = training(config.tune, point).model_copy(update={"seed": seed})
    content = config.model_copy(update={"train": chosen}).model_dump(
        mode="json", exclude={"tune", "models", "pipeline"}
    )
    head = f"# The best of {len(trials)} trials: {best['name']}. phaseray train --config best.yaml --dataset …\n"
    write_text(out / "best.yaml", head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    _copy(out / "trials" / best["trial_id"], out / "best")
    figures = {"parallel": parallel_figure(config.tune, trials), "importance": importance_figure(config.tune, trials)}
    for name, figure in figures.items():
        if figure is not None:
            write_bytes(out / "figures" / f"{name}.png", to_png(figure))
    bases = [t["map_cc"] for t in trials if t["base"] and t["map_cc"] is not None]
    summary = {
        "trials": len(trials),
        "statuses": {s: sum(t["status"] == s for t in trials) for s in ("done", "stopped", "diverged", "failed")},
        "metric": config.tune.metric,
        "best": best,
        "base_map_cc": max(bases) if bases else None,
        "seconds": round(seconds, 1),
        "dataset_digest": data.digest,
        "seed": seed,
        "best_config": str(out / "best.yaml"),
        "model": str(out / "best"),
        "out": str(out),
    }
    if tracked:
        summary["run_id"] = tracked.run.run_id
        summary["registered"] = f"{registered_name(chosen)}@champion"
        _track(tracked, rows, summary, out)
    write_json(out / "summary.json", summary)
    return summary


def _copy(trial: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    for name in (checkpoint.MODEL_WEIGHTS, "history.json", checkpoint.MODEL_JSON):
        shutil.copy2(trial / name, out / name)


def _track(tracked: Tracked, rows: Sequence[TrialRow], summary: dict[str, Any], out: Path) -> None:
    """What the server was away for, the best model, and the run of the sweep."""
    best = summary["best"]
    for row in rows:
        run = tracked.child(row)
        run.send_waiting()
        tracked.send(row, run, run.last_step("train/loss") or 0)
        if row.trial_id == best["trial_id"]:
            model, meta = checkpoint.load_checkpoint(out / "best")
            files = [out / "best" / name for name in (checkpoint.MODEL_WEIGHTS, checkpoint.MODEL_JSON)]
            run.model(model, meta.shape, files, name=summary["registered"].partition("@")[0], alias="champion")
            run.tags({"best_of_sweep": "true"})
        tracked.end(row, run)
    parent = tracked.run
    parent.metrics(
        {"best/map_cc": best["map_cc"], "best/val_loss": best["val_loss"], "base/map_cc": summary["base_map_cc"],
         "trials": summary["trials"], "time/sweep_s": summary["seconds"]}
    )  # fmt: skip
    parent.tags({"best_trial": best["trial_id"], "best_name": best["name"], "registered": summary["registered"]})
    for path in (out / "best.yaml", out / "trials.json", *sorted((out / "figures").glob("*.png"))):
        parent.file(path, "sweep")
    parent.end()
