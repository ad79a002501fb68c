"""Pictures of maps: sections with atoms, truth beside prediction, and the pattern that predictions share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gemmi
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from phaseray.evaluation.metrics import align, best_alignment
from phaseray.evaluation.sections import NEAR, PLANES, Section, section, section_point

Floats = NDArray[np.float64]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
MAP_COLOURS = "RdBu_r"
_TEXT: dict[str, Any] = {"fontsize": 9}


def sections_figure(
    truth: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    cell: ArrayLike,
    positions: ArrayLike,
    numbers: ArrayLike,
    *,
    title: str | None = None,
    aligned: bool = True,
) -> Figure:
    """Three sections through the strongest true peak, a row a map: the truth, then each prediction.

    Cells are drawn in true geometry (Å, sheared as the cell is). Atoms within 0.7 Å of the plane are outlined, the
    same true atoms in every row. Each row has its own symmetric colour scale, at which heavy
    atoms may saturate.

    Parameters
    ----------
    truth, predictions : (nx, ny, nz) maps, e/Å³
    cell, positions, numbers
        Å and degrees; (n, 3) fractional; (n,).
    aligned : bool
        Move each prediction to its best origin and hand first, and say so; else draw it as it stands.
    """
    shown, notes = _on_truth(truth, predictions) if aligned else (_floats(predictions), dict.fromkeys(predictions, ""))
    point = section_point(truth, cell)
    rows = {"truth": np.asarray(truth, np.float64), **shown}
    cuts = {name: [section(rho, cell, positions, point, plane) for plane in PLANES] for name, rho in rows.items()}
    widths = [float(np.ptp(s.x)) for s in cuts["truth"]]
    height = max(float(np.ptp(s.y)) for s in cuts["truth"])
    panel = 8.0 / sum(widths)
    row_height = max(height * panel, 1.3) + 0.75
    figure = Figure(figsize=(10.0, len(rows) * row_height + 0.9), layout="constrained")
    ratios = {"width_ratios": [*widths, 0.02 * sum(widths)], "height_ratios": [0.06, 1] * len(rows)}
    grid = figure.add_gridspec(2 * len(rows), 4, **ratios)
    for row, (name, three) in enumerate(cuts.items()):
        heading = figure.add_subplot(grid[2 * row, :])
        heading.set_axis_off()
        heading.text(0, 0, _row_title(name, notes.get(name)), fontsize=10, fontweight="bold")
        limit = _limit([s.values for s in three])
        for column, cut in enumerate(three):
            axes = figure.add_subplot(grid[2 * row + 1, column])
            image = _draw_section(axes, cut, numbers, limit)
            axes.set_xlabel(f"along {cut.axes[0]} (Å)", **_TEXT)
            axes.set_ylabel(f"towards {cut.axes[1]} (Å)", **_TEXT)
        _colour_bar(figure, image, figure.add_subplot(grid[2 * row + 1, 3]))
    drawn = sorted({int(np.asarray(numbers)[i]) for s in cuts["truth"] for i in s.atoms}, reverse=True)
    if drawn:
        marks = _markers(numbers)
        handles = [_legend_marker(marks[z], gemmi.Element(z).name) for z in drawn]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=8, frameon=False, fontsize=9,
            title=f"true atoms within {NEAR:g} Å of the section", title_fontsize=9,
        )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _row_title(name: str, note: str | None) -> str:
    return f"{name}  ({note})" if note else name


def _floats(maps: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    return {name: np.asarray(rho, np.float64) for name, rho in maps.items()}


def _on_truth(truth: ArrayLike, predictions: Mapping[str, ArrayLike]) -> tuple[dict[str, Floats], dict[str, str]]:
    """The predictions moved to the best origin and hand, and what was done to each in words."""
    shown, notes = {}, {}
    for name, rho in _floats(predictions).items():
        if not np.isfinite(rho).all():
            shown[name], notes[name] = np.zeros_like(rho), "holds values that are not finite"
            continue
        best = best_alignment(rho, truth)
        shown[name] = align(rho, best.shift, best.inverted)
        still = not best.shift.any() and not best.inverted
        moved = "on its own origin" if still else "inverted and moved" if best.inverted else "moved"
        notes[name] = (
            f"{moved} to fit the truth best, map_cc {best.cc:.2f}" if not still else f"{moved}, map_cc {best.cc:.2f}"
        )
    return shown, notes


def _limit(values: Sequence[Floats], *, floor: float = 0.12) -> float:
    """Upper end of a symmetric colour scale: what 98 % of points stay below, and at least `floor` of the highest.

    A heavy atom then saturates, and light ones beside it are still seen.
    """
    sizes = np.abs(np.concatenate([v.ravel() for v in values]))
    limit = max(float(np.percentile(sizes, 98)), floor * float(sizes.max()))
    return limit if limit > 0 else 1.0


def _markers(numbers: ArrayLike) -> dict[int, str]:
    """A marker for each element, heaviest first; the lightest share the last."""
    elements = sorted({int(z) for z in np.asarray(numbers)}, reverse=True)
    return {z: MARKERS[min(i, len(MARKERS) - 1)] for i, z in enumerate(elements)}


def _legend_marker(marker: str, label: str) -> Line2D:
    return Line2D([], [], ls="none", marker=marker, ms=7, mfc="none", mec="black", mew=1.2, label=label)


def _draw_section(axes: Any, cut: Section, numbers: ArrayLike, limit: float, *, size: float = 45) -> Any:
    image = axes.pcolormesh(
        cut.x, cut.y, cut.values, cmap=MAP_COLOURS, vmin=-limit, vmax=limit, shading="gouraud", rasterized=True
    )
    for z, marker in _markers(numbers).items():
        of_z = np.asarray(numbers)[cut.atoms] == z
        where = (cut.atoms_x[of_z], cut.atoms_y[of_z])
        # a white line under the black one is seen on any colour
        axes.scatter(
            *where, s=size, marker=marker, facecolors="none", edgecolors="white", linewidths=2.6, clip_on=False
        )
        axes.scatter(
            *where, s=size, marker=marker, facecolors="none", edgecolors="black", linewidths=1.1, clip_on=False
        )
    corners = ([0, -1, -1, 0, 0], [0, 0, -1, -1, 0])
    axes.plot(cut.x[corners], cut.y[corners], color="black", linewidth=0.7)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return image


def section_image(
    density: ArrayLike,
    cell: ArrayLike,
    positions: ArrayLike,
    numbers: ArrayLike,
    *,
    point: ArrayLike | None = None,
    plane: tuple[int, int, int] = PLANES[0],
    title: str = "",
    pixels: int = 360,
) -> NDArray[np.uint8]:
    """(pixels, w, 3) picture of one section through `point` (else the map's own strongest peak), atoms outlined."""
    where = section_point(density, cell) if point is None else point
    return _picture([(title, section(density, cell, positions, where, plane))], numbers, pixels)


def comparison_image(
    truth: ArrayLike,
    prediction: ArrayLike,
    cell: ArrayLike,
    positions: ArrayLike,
    numbers: ArrayLike,
    *,
    aligned: bool = False,
    plane: tuple[int, int, int] = PLANES[0],
    pixels: int = 360,
) -> NDArray[np.uint8]:
    """(h, w, 3) picture: a section of the truth beside the same section of the prediction, atoms outlined."""
    shown, name = np.asarray(prediction, np.float64), "prediction"
    if aligned:
        moved, notes = _on_truth(truth, {name: prediction})
        shown, name = moved[name], f"prediction, {notes[name]}"
    point = section_point(truth, cell)
    pair = [("truth", truth), (name, shown)]
    return _picture([(t, section(rho, cell, positions, point, plane)) for t, rho in pair], numbers, pixels)


def _picture(cuts: Sequence[tuple[str, Section]], numbers: ArrayLike, pixels: int) -> NDArray[np.uint8]:
    dpi, height = 100, pixels / 100
    aspect = float(np.ptp(cuts[0][1].x) / np.ptp(cuts[0][1].y))
    width = len(cuts) * (min(max((height - 0.3) * aspect, 0.8), 4 * height) + 0.1)
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for i, (title, cut) in enumerate(cuts):
        axes = figure.add_subplot(1, len(cuts), i + 1)
        _draw_section(axes, cut, numbers, _limit([cut.values]))
        axes.set_axis_off()
        if title:
            axes.set_title(title, fontsize=9, wrap=True)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()


def mean_prediction_figure(means: Mapping[str, ArrayLike]) -> Figure:
    """The common pattern: three sections through the origin of each mean map, the origin in the middle.

    Cells differ, so axes are fractions of the cell, and a cube stands for them all. A row a map, each with its own
    symmetric colour scale.
    """
    rows = _floats(means)
    figure = Figure(figsize=(8.6, 2.65 * max(len(rows), 1)), layout="constrained")
    grid = figure.add_gridspec(max(len(rows), 1), 4, width_ratios=[1, 1, 1, 0.06])
    for row, (name, rho) in enumerate(rows.items()):
        half = tuple(n // 2 for n in rho.shape)
        centred = np.roll(rho, half, (0, 1, 2))
        cuts = [np.moveaxis(centred, (along, across, cut), (0, 1, 2))[..., half[cut]] for along, across, cut in PLANES]
        limit = _limit(cuts, floor=0.3)
        for column, (values, (along, across, cut)) in enumerate(zip(cuts, PLANES, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            du, dv = (0.5 / n for n in values.shape)
            extent = (-0.5 - du, 0.5 - du, -0.5 - dv, 0.5 - dv)
            image = axes.imshow(
                values.T, origin="lower", extent=extent, cmap=MAP_COLOURS, vmin=-limit, vmax=limit, aspect="equal"
            )
            axes.set_xlabel("xyz"[along] + f"   (at {'xyz'[cut]} = 0)", **_TEXT)
            axes.set_ylabel("xyz"[across], **_TEXT)
            axes.set_xticks([-0.5, 0, 0.5 - 1 / values.shape[0]], ["−½", "0", "½"])
            axes.set_yticks([-0.5, 0, 0.5 - 1 / values.shape[1]], ["−½", "0", "½"])
            axes.tick_params(labelsize=8)
            if column == 0:
                axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        _colour_bar(figure, image, figure.add_subplot(grid[row, 3]))
    return figure


def _colour_bar(figure: Figure, image: Any, axes: Any) -> None:
    bar = figure.colorbar(image, cax=axes, extend="both")
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    bar.ax.set_title("e/Å³", fontsize=8)
    bar.ax.tick_params(labelsize=8)
