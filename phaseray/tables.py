"""Short tables for people, printed at the end of a command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_LABELS = {
    "inputs": "inputs",
    "ok": "ok",
    "rejected": "rejected",
    "duplicates": "duplicates",
    "rejected_by_code": "rejected by reason",
    "split": "split",
    "shapes": "grids",
    "bytes": "size",
    "bytes_per_crystal": "a crystal",
    "dataset_digest": "dataset digest",
    "parameters": "parameters",
    "epochs": "epochs",
    "best_epoch": "best epoch",
    "train_loss": "training loss",
    "best_val_loss": "validation loss",
    "seconds": "seconds",
    "crystals_per_second": "crystals a second",
    "peak_memory_mb": "peak memory, MB",
    "out": "written to",
    "model": "written to",
}


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Two columns: what, and how much."""
    table = Table(title=title, box=box.SIMPLE_HEAD, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for key, label in _LABELS.items():
        if facts.get(key) not in (None, {}):
            table.add_row(label, _text(key, facts[key]))
    _console().print(table)


def print_scores(summary: Mapping[str, Any]) -> None:
    """A row a model: the scores that matter, zero phases first; then where the report is."""
    table = Table(
        title=f"{summary['split']} split: {summary['n_crystals']} crystals, "
        f"{summary['n_trivial']} of them trivial (zero phases reach map_cc 0.7)",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    columns = {
        "map_cc": ("map cc", 2), "phase_error": ("phase error °", 0), "r_factor": ("R", 2),
        "patterson_cc": ("Patterson cc", 2), "atoms_found": ("atoms found", 2),
    }  # fmt: skip
    table.add_column("model")
    for label, _ in columns.values():
        table.add_column(label, justify="right")
    for label in ("solved", "total density", "sameness"):
        table.add_column(label, justify="right")
    for name, model in summary["models"].items():
        poster = summary["diagnostics"][name]
        cells = [_number(model["mean"][key], digits) for key, (_, digits) in columns.items()]
        ratio = poster["density_ratio"]
        table.add_row(
            name, *cells, f"{model['solved']}/{model['n']}",
            "–" if ratio is None else f"{ratio:.2f}x", _number(poster["sameness"], 2),
        )  # fmt: skip
    console = _console()
    console.print(table)
    console.print(f"report: {summary['report']}", soft_wrap=True)


def print_sweep(summary: Mapping[str, Any]) -> None:
    """The best trials and the base ones; then what was written where."""
    trials = json.loads((Path(summary["out"]) / "trials.json").read_text(encoding="utf-8"))
    counts = ", ".join(f"{n} {status}" for status, n in summary["statuses"].items() if n)
    table = Table(
        title=f"{summary['trials']} trials ({counts}) in {summary['seconds']:.0f} s, by {summary['metric']} of "
        "validation crystals",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("trial")
    for label in ("map cc", "val loss", "best epoch", "epochs", "s"):
        table.add_column(label, justify="right")
    table.add_column("")
    for place, trial in enumerate(trials):
        if place >= _TRIALS and not trial["base"]:
            continue
        best = "–" if trial["best_epoch"] is None else f"{trial['best_epoch']:g}"
        table.add_row(
            trial["name"], _number(trial["map_cc"], 3), _number(trial["val_loss"], 3), best,
            f"{trial['epochs']}/{trial['of']}", f"{trial['seconds']:.0f}",
            ", ".join(word for word in ("base" if trial["base"] else "", trial["status"]) if word),
        )  # fmt: skip
    console = _console()
    console.print(table)
    console.print(f"best config: {summary['best_config']}  (phaseray train --config takes it)", soft_wrap=True)
    console.print(f"best model:  {summary['model']}", soft_wrap=True)
    if "registered" in summary:
        console.print(f"MLflow:      models:/{summary['registered']}", soft_wrap=True)


_POSTER = {
    "map_cc": ("map_cc", 2),
    "peak_at_origin": ("1: peak at origin", 2),
    "origin_fraction": ("2: share of density there", 3),
    "origin_fraction_cv": ("varies by", 2),
    "density_ratio": ("3: total over true", 2),
    "density_ratio_drawn": ("both by own maximum", 2),
    "sameness": ("5: alike", 2),
    "inversion_symmetry": ("inversion", 2),
    "peak_distance": ("6: peak to atom, Å", 2),
    "peak_distance_less_mean": ("less the pattern, Å", 2),
    "peak_distance_random": ("at random, Å", 2),
}


def poster_table(summary: Mapping[str, Any]) -> str:
    """Markdown: a row a model and variant, a column an observation; means over seeds, with their range."""
    heads = ["network", "variant", "crystals", *(label for label, _ in _POSTER.values())]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for line in summary["lines"]:
        cells = [line["model"], line["variant"], str(line["structures"] or "")]
        for key, (_, digits) in _POSTER.items():
            text = _number(line.get(key), digits)
            low, high = line.get(f"{key} range", (0, 0))
            if line["seeds"] > 1 and round(high - low, digits):
                text += f" ({low:.{digits}f} to {high:.{digits}f})"
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def print_poster(summary: Mapping[str, Any]) -> None:
    """The table, what was seen of the six observations, and where all of it is."""
    console = _console()
    print(poster_table(summary))
    for model, told in summary["observations"].items():
        console.print(Text(model, style="bold"))
        for sentence in told:
            console.print(Text(sentence))
    console.print(
        f"{summary['trained']} trainings judged on {summary['judged']} crystals, {summary['seconds']:.0f} s; report: "
        f"{summary['report']}", soft_wrap=True,
    )  # fmt: skip


def print_solution(summary: Mapping[str, Any]) -> None:
    """The verdict first, then the data and what was found."""
    from phaseray.solving import facts_in_words

    colour = {"solved": "bold green", "uncertain": "bold yellow", "not solved": "bold red"}[summary["verdict"]]
    console = _console()
    console.print()
    console.print(Text.assemble((f"{summary['name']}: {summary['verdict']}", colour)))
    console.print(Text(summary["sentence"]))
    for line in summary["advice"]:
        console.print(Text(f"- {line}"))
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in facts_in_words(summary):
        table.add_row(name, Text(value))
    console.print(table)
    console.print(f"written to {summary['out']} (map.ccp4, phases.mtz, solved.res, report.html, …)", soft_wrap=True)


def print_inspection(summary: Mapping[str, Any]) -> None:
    """What `inspect` found, on one screen: counts, bars, rejections."""
    from phaseray.evaluation.dataset_report import LABELS, facts, span

    console = _console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, value in facts(summary):
        table.add_row(name, value)
    console.print(table)
    console.print()
    found = summary["histograms"]
    labels = {**LABELS, "elements": ("Crystals with", "")}
    panels = [
        (label + (f", {unit}" if unit else ""), span(found[key], unit), found[key]["counts"])
        for key, (label, unit) in labels.items()
        if key in found and found[key]["counts"]
    ]
    across = max(1, min(3, console.width // 36))
    width = (console.width - 3 * (across - 1)) // across
    for first in range(0, len(panels), across):
        row = Table.grid(padding=(0, 3, 0, 0))
        for _ in range(across):
            row.add_column(width=width)
        row.add_row(*(_bars(*panel, width) for panel in panels[first : first + across]))
        console.print(row)
        console.print()
    _print_rejections(console, summary)
    console.print(f"report: {summary['report']}", soft_wrap=True)


_TRIALS = 10
_BAR_ROWS = 8
_CODES = 6
_FOLDED = ("Space group", "Crystals with")  # names, of which the rarest may be left out; ranges are all shown


def _bars(label: str, span: str, counts: Sequence[tuple[str, int]], width: int) -> Text:
    """A heading, then a line a range: its name, a bar, its count."""
    shown = counts[: _BAR_ROWS - 1] if label in _FOLDED and len(counts) > _BAR_ROWS else counts
    highest = max(1, *(n for _, n in shown))
    names, numbers = max(len(name) for name, _ in shown), max(len(f"{n:,}") for _, n in shown)
    room = min(width - names - numbers - 3, 24)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(label, style="bold")
    text.append(f"\n{span}" if span else "", style="dim")
    for name, n in shown:
        text.append(f"\n{name:>{names}} ")
        text.append(_bar(n / highest, room), style="cyan")
        text.append(f" {n:,}", style="dim")
    if len(counts) > len(shown):
        text.append(f"\n{'…':>{names}} {len(counts) - len(shown)} more", style="dim")
    return text


def _bar(share: float, room: int) -> str:
    eighths = max(round(share * room * 8), 1 if share else 0)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _print_rejections(console: Console, summary: Mapping[str, Any]) -> None:
    if not summary["rejections"]:
        return
    shown, rest = summary["rejections"][:_CODES], summary["rejections"][_CODES:]
    rows = [(r["code"], f"{r['count']:,}", "{id}: {sentence}".format(**r["examples"][0])) for r in shown]
    if rest:
        rows.append((f"{len(rest)} more", f"{sum(r['count'] for r in rest):,}", ", ".join(r["code"] for r in rest)))
    codes, counts = max(len(code) for code, _, _ in rows), max(len(count) for _, count, _ in rows)
    console.print(Text("Rejected, with an example", style="bold"))
    for code, count, words in rows:
        line = Text(f"{code:<{codes}} {count:>{counts}}  ")
        line.append(" ".join(words.split()), style="dim")
        line.truncate(console.width, overflow="ellipsis")
        console.print(line)
    console.print()


def _console() -> Console:
    """Where nobody can see the width (a log, a pipe), tables take what they need."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def _text(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        items = list(value.items())
        shown = ", ".join(f"{name} {count:,}" for name, count in items[:8])
        return shown + (f" and {len(items) - 8} more" if len(items) > 8 else "")
    if key in ("bytes", "bytes_per_crystal"):
        return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"
    if isinstance(value, float):
        return f"{value:.4f}" if "loss" in key else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
