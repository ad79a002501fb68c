"""A density growing out of random phases: one section of a crystal at several cycles of an iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gemmi
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from phaseray.evaluation.map_figures import _draw_section, _legend_marker, _limit, _markers
from phaseray.evaluation.metrics import align, best_alignment, pearson
from phaseray.evaluation.sections import NEAR, PLANES, section, section_point

Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Growth:
    """What an iteration passed through on its way to a map.

    Attributes
    ----------
    name : str
    cell, positions, numbers : as in `Crystal`
    truth : (nx, ny, nz) e/Å³
    maps : cycle to (nx, ny, nz), of the start that was chosen, in the order of the cycles
    order : of the group of symmetry that was put into the last map; 1 for none
    """

    name: str
    cell: NDArray[np.float64]
    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    truth: Maps
    maps: Mapping[int, Maps]
    order: int = 1

    def on_truth(self) -> dict[int, tuple[Maps, float]]:
        """Each map moved as the last one must be to fit the truth, and its Pearson correlation there."""
        last = self.maps[max(self.maps)]
        best = best_alignment(last, self.truth)
        moved = {cycle: align(rho, best.shift, best.inverted) for cycle, rho in self.maps.items()}
        return {cycle: (rho, pearson(rho, self.truth)) for cycle, rho in moved.items()}


def growth_figure(growths: list[Growth]) -> Figure:
    """A row a crystal: the section through its strongest peak at each cycle, and the truth at the end.

    All maps of a row are moved alike, as the last one fits best: origin and hand are the iteration's own choice.
    """
    columns = max(len(g.maps) for g in growths) + 1
    figure = Figure(figsize=(1.75 * columns, 2.6 * len(growths) + 0.5), layout="constrained")
    subfigures = figure.subfigures(len(growths), 1, squeeze=False)[:, 0]
    for part, growth in zip(subfigures, growths, strict=True):
        # the line below keeps the heading off the titles of the panels
        part.suptitle(f"{growth.name}\n", fontsize=10, fontweight="bold", x=0.01, ha="left")
        axes = part.subplots(1, columns, squeeze=False)[0]
        point = section_point(growth.truth, growth.cell)
        seen, last = growth.on_truth(), max(growth.maps)
        shown = [(_title(c, cc, growth.order if c == last else 1), rho) for c, (rho, cc) in seen.items()]
        shown.append(("truth", growth.truth))
        for panel, (title, rho) in zip(axes, shown, strict=False):
            cut = section(rho, growth.cell, growth.positions, point, PLANES[0])
            _draw_section(panel, cut, growth.numbers, _limit([cut.values]), size=26)
            panel.set_axis_off()
            panel.set_title(title, fontsize=8, pad=4)
        for panel in axes[len(shown) :]:
            panel.set_axis_off()
        marks = _markers(growth.numbers)
        handles = [_legend_marker(mark, gemmi.Element(z).name) for z, mark in marks.items()]
        part.legend(handles=handles, loc="outside lower left", ncols=8, frameon=False, fontsize=8)
    note = "; symmetry (n): the n operations found in the map put in" if any(g.order > 1 for g in growths) else ""
    figure.supxlabel(f"outlined: true atoms within {NEAR:g} Å of the section{note}", fontsize=8)
    return figure


def _title(cycle: int, cc: float, order: int) -> str:
    name = "random phases" if cycle == 0 else f"cycle {cycle}" if order == 1 else f"symmetry ({order})"
    return f"{name}\ncc {cc:.2f}"
