"""Charts of training and scores: losses against epoch, and how map_cc is spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from phaseray.evaluation.evaluate import ZERO_PHASES, Score
from phaseray.evaluation.metrics import SOLVED_MAP_CC

# Okabe & Ito (2008): told apart by colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#7f7f7f"
_TEXT: dict[str, Any] = {"fontsize": 9}


def model_colours(models: Iterable[str]) -> dict[str, str]:
    """A colour for each model; zero phases are grey."""
    others = [m for m in dict.fromkeys(models) if m != ZERO_PHASES]
    return {ZERO_PHASES: GREY, **{m: COLOURS[i % len(COLOURS)] for i, m in enumerate(others)}}


def loss_curves_figure(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Loss against epoch: training as a line, validation dashed, a panel a model, as losses may differ in kind.

    Parameters
    ----------
    histories : model name to rows with 'epoch', 'train/loss', 'val/loss'
        Missing or non-finite values are left out.
    """
    n = max(len(histories), 1)
    columns = min(n, 3)
    rows = -(-n // columns)
    figure = Figure(figsize=(3.4 * columns + 0.4, 2.7 * rows + 0.3), layout="constrained")
    colours = model_colours(histories)
    for i, (name, history) in enumerate(histories.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        drawn: list[float] = []
        for key, label, style in (("train/loss", "training", "-"), ("val/loss", "validation", "--")):
            points = [(float(r["epoch"]), float(r[key])) for r in history if r.get(key) is not None and "epoch" in r]
            points = [(e, v) for e, v in points if np.isfinite(v)]
            if points:
                epochs, values = zip(*points, strict=True)
                drawn += values
                marker = "o" if len(points) < 20 else ""
                axes.plot(epochs, values, style, marker=marker, ms=3.5, color=colours[name], label=label)
        if drawn:
            if min(drawn) > 0 and max(drawn) > 10 * min(drawn):
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.legend(fontsize=8, frameon=False)
        else:
            axes.text(
                0.5, 0.5, "no finite loss was logged", ha="center", va="center", transform=axes.transAxes, **_TEXT
            )
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("epoch", **_TEXT)
        axes.set_ylabel("loss", **_TEXT)
        _plain(axes)
        if drawn:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return figure


def map_cc_histogram_figure(scores: Iterable[Score]) -> Figure:
    """How map_cc is spread over the crystals: a panel a model, the crystals that zero phases already do apart."""
    rows = [s for s in scores if s.map_cc is not None]
    models = list(dict.fromkeys(s.model for s in rows))
    colours = model_colours(models)
    bins = np.linspace(0, 1, 26).tolist()
    figure = Figure(figsize=(7.2, 1.55 * max(len(models), 1) + 0.7), layout="constrained")
    shared: Any = None
    for i, model in enumerate(models):
        axes = figure.add_subplot(len(models), 1, i + 1, sharex=shared, sharey=shared)
        shared = shared or axes
        parts = [
            np.clip([s.map_cc for s in rows if s.model == model and s.trivial == easy and s.map_cc is not None], 0, 1)
            for easy in (False, True)
        ]
        axes.hist(parts, bins=bins, stacked=True, color=[colours[model], colours[model] + "55"])
        axes.axvline(SOLVED_MAP_CC, color="black", linewidth=0.9, linestyle=":")
        axes.set_title(model, loc="left", fontsize=10)
        axes.set_ylabel("crystals", **_TEXT)
        axes.set_xlim(0, 1)
        _plain(axes)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.tick_params(labelbottom=i == len(models) - 1)
        if i == len(models) - 1:
            axes.set_xlabel("map_cc (best origin and hand)", **_TEXT)
    if models:
        keys = [
            Patch(color="#444444", label="not trivial"),
            Patch(color="#44444455", label="trivial: zero phases reach 0.7"),
            Line2D(
                [],
                [],
                color="black",
                linewidth=0.9,
                linestyle=":",
                label="solved from 0.8 on, if the atoms are found too",
            ),
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
