"""Figures of a sweep: every trial as a line through its values, and which values mattered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from phaseray.config import Choice, Domain, LogUniform, TuneConfig
from phaseray.tuning.space import distribution, encoded

__all__ = ["importance_figure", "importances", "parallel_figure"]

FEWEST = 4  # trials of a space, below which nothing can be said of importance
LABEL = {"map_cc": "map_cc of validation crystals", "loss": "validation loss, negative"}


def parallel_figure(config: TuneConfig, trials: Sequence[dict[str, Any]]) -> Figure | None:
    """A panel a space, an axis a searched key, a line a trial, coloured by its score; the best is thick."""
    known = [t for t in trials if t["score"] is not None]
    spaces = [name for name, space in config.spaces.items() if space.search and any(t["space"] == name for t in known)]
    if not spaces:
        return None
    scores = [t["score"] for t in known]
    norm = Normalize(min(scores), max(scores) if max(scores) > min(scores) else min(scores) + 1e-9)
    colours = colormaps["viridis"]
    widest = max(len(config.spaces[name].search) for name in spaces)
    figure = Figure(figsize=(max(5.0, 1.7 * widest + 2.2), 3.3 * len(spaces)), layout="constrained")
    best = max(known, key=lambda t: t["score"])
    all_axes = []
    for i, name in enumerate(spaces):
        axes = figure.add_subplot(len(spaces), 1, i + 1)
        all_axes.append(axes)
        search = config.spaces[name].search
        columns = [*search, LABEL[config.metric]]
        mine = sorted((t for t in known if t["space"] == name), key=lambda t: t["score"])
        for t in mine:
            heights = [_height(domain, t["values"].get(key)) for key, domain in search.items()]
            heights.append(float(norm(t["score"])))
            wide = t is best
            axes.plot(
                range(len(columns)), heights, color=colours(norm(t["score"])), linewidth=3 if wide else 1.3,
                linestyle="--" if t["base"] else "-", marker="o", ms=5 if wide else 3, zorder=3 if wide else 2,
            )  # fmt: skip
        for x, domain in enumerate(search.values()):
            axes.axvline(x, color="#999999", linewidth=0.8, zorder=1)
            for height, text in _ticks(domain):
                axes.annotate(text, (x, height), (-4, 0), textcoords="offset points", ha="right", va="center", size=7)
        x = len(search)
        axes.axvline(x, color="#999999", linewidth=0.8, zorder=1)
        for value in (min(scores), max(scores)):
            axes.annotate(
                f"{value:.3f}", (x, float(norm(value))), (5, 0), textcoords="offset points", va="center", size=7
            )
        labels = [key.replace("model.", "").replace("_", " ") for key in search] + [LABEL[config.metric]]
        axes.set_xticks(range(len(columns)), [_wrapped(label) for label in labels], fontsize=8)
        axes.set_yticks([])
        axes.set_xlim(-0.45, len(columns) - 0.6)
        axes.set_ylim(-0.07, 1.07)
        axes.set_title(f"{name}: {len(mine)} trials (dashed: the base; thick: the best of all)", loc="left", fontsize=9)
        for side in axes.spines.values():
            side.set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=all_axes, shrink=0.7, aspect=25)
    bar.set_label(LABEL[config.metric], fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def importances(config: TuneConfig, trials: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Share of the variance of the score that each key explains within its space (fANOVA, Hutter et al. 2014)."""
    found = {}
    for name, space in config.spaces.items():
        domains = {key: distribution(domain) for key, domain in space.search.items()}
        mine = [t for t in trials if t["space"] == name and t["score"] is not None and set(t["values"]) == set(domains)]
        if len(mine) < FEWEST or not domains or np.ptp([t["score"] for t in mine]) == 0:
            continue
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        for t in mine:
            study.add_trial(
                optuna.trial.create_trial(params=t["values"], distributions=domains, value=float(t["score"]))
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            found[name] = dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    return found


def importance_figure(config: TuneConfig, trials: Sequence[dict[str, Any]]) -> Figure | None:
    """Bars of `importances`; None where no space has enough trials."""
    found = importances(config, trials)
    if not found:
        return None
    rows = [len(shares) for shares in found.values()]
    figure = Figure(figsize=(5.5, 0.34 * sum(rows) + 0.9 * len(rows) + 0.2), layout="constrained")
    panels = figure.subplots(len(rows), 1, sharex=True, height_ratios=[n + 1 for n in rows], squeeze=False)[:, 0]
    for axes, (name, shares) in zip(panels, found.items(), strict=True):
        keys = list(shares)[::-1]
        axes.barh([k.replace("model.", "") for k in keys], [shares[k] for k in keys], color="#0072B2", height=0.6)
        n = sum(t["space"] == name and t["score"] is not None for t in trials)
        axes.set_title(f"{name}: {n} trials" + (", too few to trust" if n < 20 else ""), loc="left", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_xlim(0, 1)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[-1].set_xlabel("share of the score's variance (fANOVA)", fontsize=8)
    return figure


def _height(domain: Domain, value: Any) -> float:
    """Of a value on its axis, 0 to 1."""
    if isinstance(domain, Choice):
        values = [encoded(v) for v in domain.values]
        return 0.5 if len(values) == 1 else values.index(encoded(value)) / (len(values) - 1)
    if isinstance(domain, LogUniform):
        return math.log(value / domain.low) / math.log(domain.high / domain.low)
    return float((value - domain.low) / (domain.high - domain.low))


def _ticks(domain: Domain) -> list[tuple[float, str]]:
    if isinstance(domain, Choice):
        return [(_height(domain, v), _text(v)) for v in domain.values]
    return [(0.0, _text(domain.low)), (1.0, _text(domain.high))]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _wrapped(label: str) -> str:
    return label.replace(" of ", "\nof ")
