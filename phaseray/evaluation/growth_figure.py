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

_NOTES = {
    "atoms": "atoms: phases of the atoms found in the map and fitted to the amplitudes",
    "symmetry": "symmetry (n): the n operations found in the map put in",
}


@dataclass(frozen=True, eq=False)
class Growth:
    """What an iteration passed through on its way to a map.

    Attributes
    ----------
    name : str
    cell, positions, numbers : as in `Crystal`
    truth : (nx, ny, nz) e/Å³
    maps : cycle to (nx, ny, nz), of the start that was chosen, in the order of the cycles
    last : what was done to the last map, where it is no cycle: "atoms" or "symmetry (order of the group)"
    """

    name: str
    cell: NDArray[np.float64]
    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    truth: Maps
    maps: Mapping[int, Maps]
    last: str = ""

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
        shown = [(_title(c, cc, growth.last if c == last else ""), rho) for c, (rho, cc) in seen.items()]
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
    notes = [f"; {what}" for name, what in _NOTES.items() if any(g.last.startswith(name) for g in growths)]
    figure.supxlabel(f"outlined: true atoms within {NEAR:g} Å of the section{''.join(notes)}", fontsize=8)
    return figure


def _title(cycle: int, cc: float, last: str) -> str:
    name = last or ("random phases" if cycle == 0 else f"cycle {cycle}")
    return f"{name}\ncc {cc:.2f}"
