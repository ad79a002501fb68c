"""Short tables for people, printed at the end of a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_LABELS = {
    "inputs": "inputs",
    "ok": "ok",
    "rejected": "rejected",
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
