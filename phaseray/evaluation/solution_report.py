"""The page of `phaseray solve`: the verdict, the data, a picture of the map, the atoms; one HTML file, no scripts."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from phaseray.crystal import orthogonalization_matrix
from phaseray.evaluation.figures import to_png
from phaseray.evaluation.score_figures import COLOURS, GREY
from phaseray.evaluation.sections import PLANES, finer

Floats = NDArray[np.float64]

_TEMPLATE = Path(__file__).with_name("solution.html")
_MOST_ATOMS = 60  # of the table
_BONDED = 0.4  # Å
_HEAVY, _UNKNOWN = 2.5, (1.35, 0.75)  # times the median; Å of such atoms, and of the others
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")


def write_solution_report(
    path: Path, summary: Mapping[str, Any], atoms: Sequence[Sequence[str]], picture: Figure, drawn: Figure | None = None
) -> Path:
    """Write report.html; what was at `path` is replaced only when the new page is whole.

    Parameters
    ----------
    summary
        What `solving.solve` returns.
    atoms
        Rows of the table of atoms: name, x, y, z, multiplicity, electrons, B.
    picture, drawn
        Of the map, and of the asymmetric unit.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        s=summary, atoms=list(atoms)[:_MOST_ATOMS], more=max(0, len(atoms) - _MOST_ATOMS),
        picture=base64.b64encode(to_png(picture)).decode(),
        drawn=None if drawn is None else base64.b64encode(to_png(drawn)).decode(),
    )  # fmt: skip
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def projections_figure(density: ArrayLike, cell: ArrayLike, positions: ArrayLike, numbers: ArrayLike) -> Figure:
    """The highest density along each axis of the cell, cells in true geometry, with the atoms of the whole cell.

    Parameters
    ----------
    density : (nx, ny, nz)
    cell : (6,)
        Å and degrees.
    positions, numbers : (n, 3) fractional, (n,)
        Atoms; number 0: element not known.
    """
    rho = np.asarray(density, np.float64)
    matrix, x = orthogonalization_matrix(cell), np.asarray(positions, np.float64).reshape(-1, 3) % 1.0
    z = np.asarray(numbers)
    panels = []
    for along, across, cut in PLANES:
        values = np.moveaxis(rho, (along, across, cut), (0, 1, 2)).max(-1)
        for axis in (0, 1):
            values = finer(values, axis)
        values = np.pad(values, ((0, 1), (0, 1)), mode="wrap")
        flat = _seen_along(matrix, along, across, cut)
        u, v = (np.arange(n) / (n - 1) for n in values.shape)
        grid = np.einsum("ij,juv->iuv", flat, np.stack(np.meshgrid(u, v, indexing="ij")))
        panels.append((grid, values, flat @ x[:, [along, across]].T, "abc"[cut]))
    widths = [float(np.ptp(grid[0])) for grid, *_ in panels]
    tallest = max(float(np.ptp(grid[1])) for grid, *_ in panels)
    inches = 9.4 / sum(widths)
    figure = Figure(figsize=(10.0, min(max(tallest * inches, 1.6), 8.0) + 1.1), layout="constrained")
    axes = figure.subplots(1, 3, squeeze=False, width_ratios=widths)[0]
    # light atoms are to be seen beside heavy ones
    top = float(np.percentile(np.concatenate([v.ravel() for _, v, *_ in panels]), 96))
    kinds = sorted({int(n) for n in z}, reverse=True)
    for panel, (grid, values, flat_atoms, name) in zip(axes, panels, strict=True):
        panel.pcolormesh(*grid, values, cmap="Greys", vmin=0, vmax=1.3 * top, shading="gouraud", rasterized=True)
        for i, kind in enumerate(kinds):
            of_kind = z == kind
            panel.scatter(
                flat_atoms[0, of_kind], flat_atoms[1, of_kind], s=22, marker=_MARKERS[min(i, len(_MARKERS) - 1)],
                facecolors="none", edgecolors=COLOURS[i % len(COLOURS) if kind else 1], linewidths=1.2, clip_on=False,
                label=gemmi.Element(kind).name if kind else "peak",
            )  # fmt: skip
        corners = ([0, -1, -1, 0, 0], [0, 0, -1, -1, 0])
        panel.plot(grid[0][corners], grid[1][corners], color="black", linewidth=0.7)
        panel.set_aspect("equal")
        panel.set_axis_off()
        panel.set_title(f"along {name}", fontsize=9)
    if kinds:
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=8, frameon=False, fontsize=9)
    return figure


def atoms_figure(
    cell: ArrayLike, positions: ArrayLike, numbers: ArrayLike, electrons: ArrayLike, names: Sequence[str]
) -> Figure:
    """The atoms of the asymmetric unit, seen so that they spread most, with lines between those that are bonded.

    Bonded: nearer than the sum of the covalent radii and 0.4 Å (Cambridge Structural Database); where the element is
    not known, that of carbon, or of a metal if it has far more electrons than most.

    Parameters
    ----------
    positions, numbers, electrons : (n, 3) fractional, (n,), (n,)
    """
    x = np.asarray(positions, np.float64) @ orthogonalization_matrix(cell).T
    flat = (x - x.mean(0)) @ np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:2].T
    known = np.array([gemmi.Element(int(n)).covalent_r for n in np.asarray(numbers)])
    strength = np.asarray(electrons, np.float64)
    guessed = np.where(strength > _HEAVY * np.median(strength), *_UNKNOWN)
    radii = np.where(np.asarray(numbers) > 0, known, guessed)
    apart = np.linalg.norm(x[:, None] - x, axis=-1)
    bonded = np.argwhere(np.triu(apart < radii[:, None] + radii + _BONDED, 1))
    width, height = np.ptp(flat, axis=0) + 3.0
    figure = Figure(figsize=(6.5, float(np.clip(6.5 * height / width, 2.0, 4.6))), layout="constrained")
    axes = figure.add_subplot()
    for i, j in bonded:
        axes.plot(*flat[[i, j]].T, color=GREY, linewidth=1.6, zorder=1)
    kinds = sorted(set(np.asarray(numbers).tolist()), reverse=True)
    for i, kind in enumerate(kinds):
        of_kind = np.asarray(numbers) == kind
        colour = COLOURS[i % len(COLOURS)] if kind else COLOURS[1]
        axes.scatter(
            flat[of_kind, 0], flat[of_kind, 1], s=60, color=colour, edgecolors="white", linewidths=1.0, zorder=2
        )
    for (u, v), name in zip(flat, names, strict=True):
        axes.annotate(name, (u, v), xytext=(4, 4), textcoords="offset points", fontsize=7, zorder=3)
    axes.set_aspect("equal")
    axes.margins(0.06)
    axes.set_axis_off()
    return figure


def _seen_along(matrix: Floats, along: int, across: int, cut: int) -> Floats:
    """(2, 2): fractions of two edges to Å in the plane that is seen along the third, the first edge along x."""
    sight = matrix[:, cut] / np.linalg.norm(matrix[:, cut])
    first, second = (edge - (edge @ sight) * sight for edge in (matrix[:, along], matrix[:, across]))
    right = first / np.linalg.norm(first)
    x = float(second @ right)
    return np.array([[np.linalg.norm(first), x], [0.0, np.linalg.norm(second - x * right)]])
