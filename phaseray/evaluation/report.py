"""The report: one HTML file that holds everything it shows, and needs neither network nor scripts."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from phaseray.evaluation.diagnostics import PosterDiagnostics
from phaseray.evaluation.evaluate import ZERO_PHASES, Evaluation, ModelSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).with_name("report.html")


class Captioned(NamedTuple):
    """A figure, or the bytes of a PNG file, with its caption."""

    figure: Figure | bytes
    caption: str


class Table(NamedTuple):
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_report(
    path: str | Path,
    title: str,
    evaluation: Evaluation,
    diagnostics: Mapping[str, PosterDiagnostics],
    figures: Sequence[Captioned],
    sentences: Mapping[str, Sequence[str]],
    facts: Mapping[str, object],
    *,
    paragraphs: Sequence[str] = (),
    limits: Sequence[str] = (),
) -> Path:
    """Write report.html; what was at `path` is replaced only when the new page is whole.

    Parameters
    ----------
    path
        Of the file; its folder is made if need be.
    title
        Plain text, as all text here: markup in it is shown, not obeyed.
    evaluation
        From `evaluate_predictions`.
    diagnostics : model name to PosterDiagnostics
        Zero phases may be among them.
    figures
        In the order they are to appear.
    sentences : model name to what `sentences` says of it
    facts : name to value
        How to make it again: "command" is shown as a block; config digest, seed, dataset digest, versions, …
    paragraphs
        What was done, in words; shown under the headline that is made from the scores.
    limits
        What this evaluation cannot say, beyond what is always said.

    Returns
    -------
    Path of the file.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        headline=headline(evaluation),
        paragraphs=list(paragraphs),
        main_table=_main_table(evaluation),
        sentences={model: [_parted(s) for s in told] for model, told in sentences.items()},
        diagnostics_table=_diagnostics_table(diagnostics),
        figures=[{"base64": base64.b64encode(_png(f)).decode(), "caption": caption} for f, caption in figures],
        crystal_table=_crystal_table(evaluation),
        limits=[_held(limit) for limit in (*_standing_limits(evaluation), *limits)],
        command=facts.get("command"),
        facts={name: str(value) for name, value in facts.items() if name != "command"},
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def headline(evaluation: Evaluation) -> list[str]:
    """The outcome in words: how many crystals, then a line a model, zero phases last."""
    n, hard = evaluation.n_crystals, evaluation.n_crystals - evaluation.n_trivial
    told = [
        f"{n} {_plural(n, 'crystal')} judged. Zero phases alone reach map_cc 0.7 on {evaluation.n_trivial} of them "
        f"(trivial); {hard} are not trivial."
    ]
    order = [*(s for m, s in evaluation.summaries.items() if m != ZERO_PHASES), evaluation.summaries[ZERO_PHASES]]
    for s in order:
        line = (
            f"{s.model}: {s.solved} of {n} solved, {s.solved_nontrivial} of the {hard} not trivial; mean map_cc "
            f"{_fixed(s.mean['map_cc'])} ({_fixed(s.mean_nontrivial['map_cc'])} on those not trivial)"
        )
        if s.not_finite:
            line += f"; {s.not_finite} {_plural(s.not_finite, 'map')} not finite"
        told.append(line + (", the baseline to beat." if s.model == ZERO_PHASES else "."))
    return told


def _main_table(evaluation: Evaluation) -> Table:
    headings = (
        "", "map_cc", "strict", "phase error (°)", "R", "Patterson", "atoms", "rms (Å)", "solved",
        "solved, not trivial", "MSE",
    )  # fmt: skip

    def row(s: ModelSummary) -> list[str]:
        def both(name: str, decimals: int) -> str:
            mean = _fixed(s.mean[name], decimals)
            return mean if s.mean[name] is None else f"{mean} ({_fixed(s.median[name], decimals)})"

        return [
            s.model,
            both("map_cc", 2),
            _fixed(s.mean["map_cc_strict"]),
            both("phase_error", 0),
            _fixed(s.mean["r_factor"]),
            _fixed(s.mean["patterson_cc"]),
            _fixed(s.mean["atoms_found"]),
            _fixed(s.mean["atoms_rms"]),
            f"{s.solved} of {s.n}",
            f"{s.solved_nontrivial} of {s.n_nontrivial}",
            _three_digits(s.mean["mse"]),
        ]

    return Table(headings, [row(s) for s in evaluation.summaries.values()])


def _crystal_table(evaluation: Evaluation) -> Table:
    columns = {model: evaluation.of(model) for model in evaluation.models}
    headings = ["crystal", "formula (cell)", "sites", *columns, "trivial"]
    rows = []
    for i, first in enumerate(columns[ZERO_PHASES]):
        scores = [f"{_fixed(s[i].map_cc)}, {_fixed(s[i].atoms_found)}" for s in columns.values()]
        rows.append([first.id, first.formula, str(first.n_sites), *scores, "yes" if first.trivial else ""])
    return Table(headings, rows)


_NAMES = {
    "n": "predictions",
    "n_constant": "of these constant",
    "peak_at_origin": "highest point at the origin (share)",
    "clustering": "clustering of the highest 2 %",
    "origin_fraction": "density around the origin / total",
    "origin_fraction_cv": "its relative spread",
    "density_ratio": "predicted / true total (median)",
    "density_ratio_low": "… lower quartile",
    "density_ratio_high": "… upper quartile",
    "sameness": "correlation between crystals",
    "inversion_symmetry": "correlation with own inverse",
    "mirror_symmetry": "correlation with own mirror images",
    "peak_distance": "peak to nearest atom (Å)",
    "peak_distance_less_mean": "… less the mean prediction (Å)",
    "peak_distance_random": "… random points (Å)",
}


def _diagnostics_table(diagnostics: Mapping[str, PosterDiagnostics]) -> Table | None:
    if not diagnostics:
        return None
    values = {model: d.as_dict() for model, d in diagnostics.items()}
    any_model = next(iter(values.values()))

    def shown(key: str, value: float | None) -> str:
        return str(value) if key in ("n", "n_constant") else _fixed(value)

    rows = []
    for key, name in _NAMES.items():
        truth = any_model.get(f"{key}_truth")
        rows.append([name, *(shown(key, v[key]) for v in values.values()), _fixed(truth)])
    return Table(["", *values, "true maps"], rows)


def _standing_limits(evaluation: Evaluation) -> list[str]:
    n = evaluation.n_crystals
    hard = n - evaluation.n_trivial
    told = [
        "The truth is a map calculated from the atoms to the same resolution, so this measures phasing, not what "
        "noise, missing reflections or wrong models do to a real measurement.",
        "map_cc, phase error and atoms are taken under the best origin and hand, since intensities fix neither; MSE "
        "and the six observations are taken on the origin as predicted.",
        "R means nothing for a method that puts the measured amplitudes back.",
    ]
    hidden = n - evaluation.n_solvable
    if hidden:
        told.insert(
            0,
            f"On {hidden} of {n} {_plural(n, 'crystal')} even the true map, cut off at this resolution, does not show "
            "80 % of the atoms (too near to one another, or too light beside others): no prediction of these counts as "
            "solved.",
        )
    if hard:
        told.insert(
            0,
            f"{hard} {_plural(hard, 'crystal')} that {'is' if hard == 1 else 'are'} not trivial: a share solved is "
            f"uncertain by up to {100 * 0.98 / hard**0.5:.0f} percentage points (95 %), and a smaller difference "
            "between models says little.",
        )
    return told


def _parted(sentence: str) -> dict[str, str]:
    """A sentence of `observations.sentences` in its parts, so that the verdict can stand out."""
    pattern = r"Observation \d \((?P<name>.*?)\): (?P<verdict>seen|partly seen|not seen|cannot be said); (?P<words>.*)"
    match = re.fullmatch(pattern, sentence, re.DOTALL)
    if match is None:
        return {"name": "", "verdict": "", "words": _held(sentence)}
    name = match["name"]
    return {"name": name[:1].upper() + name[1:], "verdict": match["verdict"], "words": _held(match["words"])}


def _held(text: str) -> str:
    """No line break between a number and its unit."""
    return text.replace(" %", "\u00a0%").replace(" Å", "\u00a0Å")


def _png(figure: Any) -> bytes:
    if isinstance(figure, bytes):
        return figure
    from phaseray.evaluation.figures import to_png

    return to_png(figure)


def _fixed(value: float | None, decimals: int = 2) -> str:
    if value is None:
        return "–"
    text = f"{value:.{decimals}f}"
    # no minus before what rounds to nothing
    return text.lstrip("-") if float(text) == 0 else text


def _three_digits(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else word + "s"
