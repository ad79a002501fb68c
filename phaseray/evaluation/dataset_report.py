"""The page of `phaseray inspect`: one HTML file that holds everything it shows."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gemmi

_TEMPLATE = Path(__file__).with_name("dataset.html")

MOST_GROUPS = 12
LABELS = {
    "n_atoms": ("Atoms in the cell", ""),
    "volume": ("Volume of the cell", "Å³"),
    "resolution": ("Complete to", "Å"),
    "crystal_system": ("Crystal system", ""),
    "space_group": ("Space group", ""),
}


def write_dataset_report(path: Path, summary: Mapping[str, Any], picture: bytes | None) -> Path:
    """Write report.html; what was at `path` is replaced only when the new page is whole.

    Parameters
    ----------
    summary
        What `inspection.inspect` returns.
    picture
        Of a few densities, a PNG file.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found = summary["histograms"]
    elements = dict(found["elements"]["counts"])
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{'Shards' if summary['kind'] == 'shards' else 'Catalogue'}: {Path(summary['folder']).name}",
        facts=facts(summary),
        bars=[_bars(found[key], *LABELS[key]) for key in LABELS if key in found and found[key]["counts"]],
        elements=list(_periodic_table(elements, summary["ok"])),
        element_count=len(elements),
        rejections=summary["rejections"],
        rejected_before=summary.get("rejected_before", 0),
        picture=base64.b64encode(picture).decode() if picture else None,
        computed=summary["kind"] == "catalogue",
        folder=summary["folder"],
        version=summary["phaseray"],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The counts in words, for the page and for the terminal."""
    told = [("crystals", f"{summary['ok']:,}" + _listed(summary["split"], " in ", total=summary["ok"]))]
    inputs = [f"{summary['inputs']:,}: {summary['ok']:,} ok"]
    for key, words in (("rejected", "rejected"), ("duplicates", "duplicates")):
        if summary.get(key):
            inputs.append(f"{summary[key]:,} {words}")
    before = summary.get("rejected_before", 0)
    if before:
        inputs.append(f"{before:,} rejected before, in ingest")
    if summary.get("duplicates_before"):
        n = summary["duplicates_before"]
        inputs.append(f"{n:,} duplicate{'s' if n != 1 else ''} left out")
    told.append(("inputs", ", ".join(inputs)))
    if "sources" in summary:
        told.append(("sources", _listed(summary["sources"])))
        if summary["with_notes"]:
            told.append(("with notes", f"{summary['with_notes']:,} (repaired or found odd when read)"))
    if "shapes" in summary:
        told.append(("grids", _listed(summary["shapes"])))
        told.append(("resolution", f"{summary['d_min']:g} Å"))
        told.append(
            ("size", f"{summary['bytes'] / 1e6:,.1f} MB, {summary['bytes_per_crystal'] / 1e3:,.1f} kB a crystal")
        )
        told.append(("digest", summary["dataset_digest"]))
    return told


def span(found: Mapping[str, Any], unit: str) -> str:
    """ "2 to 120, median 14 Å³"; nothing where there is no more than one value."""
    if found.get("min") == found.get("max"):
        return ""
    low, middle, high = (_round(found[key]) for key in ("min", "median", "max"))
    return f"{low} to {high}{' ' * bool(unit)}{unit}, median {middle}"


def _listed(counts: Mapping[str, int], prefix: str = "", *, most: int = 5, total: int | None = None) -> str:
    """ "train 80, val 10 and test 10"; the most frequent where there are many."""
    items = list(counts.items())
    if len(items) > most:
        items = sorted(items, key=lambda item: -item[1])[:most]
    text = ", ".join(f"{name} {n:,}" for name, n in items)
    more = len(counts) - len(items)
    text += f" and {more:,} more" if more else ""
    return text if not prefix else f" ({text})"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _bars(found: Mapping[str, Any], label: str, unit: str) -> dict[str, Any]:
    counts: Sequence[tuple[str, int]] = found["counts"]
    shown = counts[:MOST_GROUPS]
    rest = counts[MOST_GROUPS:]
    highest = max(1, *(n for _, n in shown))
    return {
        "label": label + (f" ({unit})" if unit else ""),
        "span": span(found, unit),
        "rows": [{"name": name, "count": f"{n:,}", "width": f"{100 * n / highest:.1f}"} for name, n in shown],
        "more": f"{len(rest)} more: {sum(n for _, n in rest):,} crystals" if rest else "",
    }


def _periodic_table(counts: Mapping[str, int], crystals: int) -> Iterator[dict[str, Any]]:
    """Every element with its place, and how many crystals have it."""
    highest = max(counts.values(), default=1)
    for z in range(1, 104):
        symbol = gemmi.Element(z).name
        n = counts.get(symbol, 0)
        row, column = _place(z)
        percent = 100 * n / max(crystals, 1)
        share = "" if not n else f"{percent:.0f} %" if percent >= 1 else "< 1 %"
        yield {"symbol": symbol, "row": row, "column": column, "count": n, "share": share,
               "strength": f"{(n / highest) ** 0.5:.2f}"}  # fmt: skip


def _place(z: int) -> tuple[int, int]:
    """Row and column of the periodic table; lanthanoids and actinoids in rows 9 and 10."""
    if 57 <= z <= 70:
        return 9, z - 57 + 3
    if 89 <= z <= 102:
        return 10, z - 89 + 3
    starts = (1, 3, 11, 19, 37, 55, 87)
    row = max(i for i, start in enumerate(starts) if z >= start)
    k = z - starts[row]
    if row == 0:
        column = 1 if k == 0 else 18
    elif row in (1, 2):
        column = k + 1 if k < 2 else k + 11
    elif row in (3, 4):
        column = k + 1
    else:
        column = k + 1 if k < 2 else k - 14 + 1
    return row + 1, column
