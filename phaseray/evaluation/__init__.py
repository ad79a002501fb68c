"""How good a predicted map is: metrics, the poster's diagnostics, figures and the report page."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseray.evaluation.atoms_in_maps import atoms_in_map
    from phaseray.evaluation.diagnostics import PosterDiagnostics, mean_predictions, poster_diagnostics
    from phaseray.evaluation.evaluate import Evaluation, Sample, evaluate_predictions
    from phaseray.evaluation.metrics import align, best_alignment, map_cc, map_cc_strict, r_factor, solved, trivial
    from phaseray.evaluation.observations import sentences
    from phaseray.evaluation.peaks import atoms_found, find_peaks
    from phaseray.evaluation.reciprocal import patterson_cc, phase_error
    from phaseray.evaluation.report import Captioned, write_report

__all__ = [
    "Captioned", "Evaluation", "PosterDiagnostics", "Sample", "align", "atoms_found", "atoms_in_map", "best_alignment",
    "evaluate_predictions", "find_peaks", "map_cc", "map_cc_strict", "mean_predictions", "patterson_cc", "phase_error",
    "poster_diagnostics", "r_factor", "sentences", "solved", "trivial", "write_report",
]  # fmt: skip

# Loaded on first use: a score must not cost the import of matplotlib.
_HOME = {
    "atoms_in_maps": ("atoms_in_map",),
    "diagnostics": ("PosterDiagnostics", "mean_predictions", "poster_diagnostics"),
    "evaluate": ("Evaluation", "Sample", "evaluate_predictions"),
    "metrics": ("align", "best_alignment", "map_cc", "map_cc_strict", "r_factor", "solved", "trivial"),
    "observations": ("sentences",),
    "peaks": ("atoms_found", "find_peaks"),
    "reciprocal": ("patterson_cc", "phase_error"),
    "report": ("Captioned", "write_report"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(import_module(f"phaseray.evaluation.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'phaseray.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
