"""Figures of the report and of MLflow, as matplotlib Figure objects: no pyplot, no global state."""

from __future__ import annotations

from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from phaseray.evaluation.map_figures import comparison_image, mean_prediction_figure, section_image, sections_figure
from phaseray.evaluation.score_figures import loss_curves_figure, map_cc_histogram_figure, model_colours

__all__ = [
    "comparison_image", "loss_curves_figure", "map_cc_histogram_figure", "mean_prediction_figure", "model_colours",
    "section_image", "sections_figure", "to_png",
]  # fmt: skip


def to_png(figure: Figure, *, dpi: int = 130) -> bytes:
    """The figure as a PNG file."""
    buffer = BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
