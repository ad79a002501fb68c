"""Pictures of a dataset: small multiples of densities with their atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import gemmi
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike

from phaseray.evaluation.map_figures import _draw_section, _legend_marker, _limit, _markers
from phaseray.evaluation.sections import section, section_point

COLUMNS = 3


class Example(NamedTuple):
    """A crystal to be drawn.

    Attributes
    ----------
    title, name
        Written above its picture, the name smaller.
    density : (nx, ny, nz)
        e/Å³.
    cell, positions, numbers
        (6,) Å and degrees; (n, 3) fractional; (n,).
    """

    title: str
    name: str
    density: ArrayLike
    cell: ArrayLike
    positions: ArrayLike
    numbers: ArrayLike


def densities_figure(examples: Sequence[Example]) -> Figure:
    """Of each crystal the ab section through its strongest peak, in true geometry, atoms near it outlined.

    Each picture has its own symmetric colour scale and its own size.
    """
    rows = -(-len(examples) // COLUMNS)
    figure = Figure(
        figsize=(10.5, 4.2 * max(rows, 1)), layout=ConstrainedLayoutEngine(h_pad=0.15, hspace=0.04, wspace=0.04)
    )
    for i, example in enumerate(examples):
        axes = figure.add_subplot(rows, COLUMNS, i + 1)
        cut = section(example.density, example.cell, example.positions, section_point(example.density, example.cell))
        _draw_section(axes, cut, example.numbers, _limit([cut.values]), size=30)
        a, b = np.asarray(example.cell, float)[:2]
        axes.set_title(_short(example.title, 36), fontsize=11, fontweight="bold", pad=33)
        axes.text(
            0.5, 1.015, f"{_short(example.name, 44)}\n{a:.1f} × {b:.1f} Å", transform=axes.transAxes, fontsize=8,
            ha="center", va="bottom", color="#444444", linespacing=1.3,
        )  # fmt: skip
        axes.set_axis_off()
        marks = _markers(example.numbers)
        drawn = sorted({int(np.asarray(example.numbers)[k]) for k in cut.atoms}, reverse=True)[:8]
        if drawn:
            axes.legend(
                handles=[_legend_marker(marks[z], gemmi.Element(z).name) for z in drawn], loc="upper center",
                bbox_to_anchor=(0.5, 0.0), ncols=min(len(drawn), 4), frameon=False, fontsize=9, handletextpad=0.1,
                columnspacing=1.0,
            )  # fmt: skip
    return figure


def _short(text: str, most: int) -> str:
    """The text, or its two ends where it is long."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}"
