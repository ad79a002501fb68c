"""`phaseray benchmark-phasing`: methods beside each other on crystals of which the truth is known."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from phaseray.config import CifSource, ConfigError, SplitConfig
from phaseray.crystal import Crystal, Rejection
from phaseray.diffraction.scattering import Probe
from phaseray.diffraction.structure_factors import structure_factors
from phaseray.evaluation.metrics import r_factor
from phaseray.phasing.benchmark import NAMES, Case, Task, has_c_and_h, run_tasks

SETS = ("aflow", "shared", "measured", "list")
DEFAULT_U_ISO = 0.02
_MAX_VOLUME, _MAX_EDGE = 1000.0, 14.0


def benchmark(
    name: str,
    d_mins: Sequence[float],
    methods: Sequence[str],
    out: Path,
    *,
    path: Path | None = None,
    most: int | None = None,
    workers: int = 2,
    seed: int = 0,
    time_limit: float | None = 10.0,
    starts: int | None = None,
    progress: Any = print,
) -> dict[str, Any]:
    """Run every method on every crystal of a set at every resolution; write cases.csv, summary.json and a figure.

    Parameters
    ----------
    path : for "shared" a folder or archive of CIFs, for "measured" a folder of folders with structure.cif
        and reflections.hkl, for "list" the archive that its ids name
    most : of the set, spread evenly over it
    time_limit : seconds a method has for a crystal; with one, results depend on the speed of the machine

    Returns
    -------
    The summary, as written.

    Raises
    ------
    ConfigError
        A set or method that is not known, no path where one is needed.
    """
    if name not in SETS:
        raise ConfigError(f"there is no set {name!r}; there are: {', '.join(SETS)}")
    unknown = [m for m in methods if m not in NAMES]
    if unknown or not methods:
        raise ConfigError(f"--methods knows {', '.join(NAMES)}, not {', '.join(unknown) or 'none at all'}")
    if not d_mins or min(d_mins) <= 0:
        raise ConfigError("--d-min needs resolutions above 0 Å")
    if name in ("shared", "measured", "list") and path is None:
        raise ConfigError(f"--set {name} needs --path: the folder or archive with the data")
    chosen = tuple(m for m in NAMES if m in methods)
    common: dict[str, Any] = {"methods": chosen, "seed": seed, "time_limit": time_limit, "starts": starts}
    crystals = _spread(measured(str(path)) if name == "measured" else _crystals(name, str(path)), most)
    tasks = [replace(task, d_min=d, **common) for d in d_mins for task in crystals]
    out.mkdir(parents=True, exist_ok=True)
    cases: list[Case] = []
    for i, found in enumerate(run_tasks(tasks, workers), 1):
        cases += found
        if i % 10 == 0 or i == len(tasks):
            progress(f"{i} of {len(tasks)} tasks")
    summary: dict[str, Any] = {
        "set": name, "n_crystals": len(crystals), "methods": list(chosen), "d_min": list(d_mins), "seed": seed,
        "time_limit": time_limit, "workers": workers, "results": summarised(cases), "out": str(out),
    }  # fmt: skip
    _write_csv(out / "cases.csv", cases)
    _write(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    if len(d_mins) > 1:
        _draw(summary["results"], out / "success.png")
    return summary


def summarised(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row for each resolution, group of crystals and method; trivial crystals are counted apart."""
    rows = []
    keys = sorted({(c.d_min, c.group, NAMES.index(c.method)) for c in cases})
    for d_min, group, place in keys:
        some = [c for c in cases if (c.d_min, c.group, c.method) == (d_min, group, NAMES[place])]
        apart = [c for c in some if not c.trivial]
        rows.append(
            {
                "d_min": d_min, "group": group, "method": NAMES[place],
                "n": len(some), "solved": sum(c.solved for c in some),
                "solved_by_maxima": sum(c.solved_by_maxima for c in some),
                "n_nontrivial": len(apart), "solved_nontrivial": sum(c.solved for c in apart),
                "map_cc_0.8": sum(c.map_cc >= 0.8 for c in some),
                "map_cc_0.8_nontrivial": sum(c.map_cc >= 0.8 for c in apart),
                "best_start_0.8_nontrivial": sum(c.map_cc_best >= 0.8 for c in apart),
                "solvable": sum(c.solvable for c in some),
                "solvable_nontrivial": sum(c.solvable for c in apart),
                "mean_map_cc": round(float(np.mean([c.map_cc for c in some])), 3),
                "median_seconds": round(float(np.median([c.seconds for c in some])), 2),
                "largest_seconds": round(max(c.seconds for c in some), 2),
            }
        )  # fmt: skip
    return rows


def print_benchmark(summary: dict[str, Any]) -> None:
    """The table on the screen."""
    from phaseray.tables import _console

    table = Table(
        title=f"{summary['set']}: {summary['n_crystals']} crystals; trivial where zero phases reach map_cc 0.7; "
        "solvable where the true phases are solved",
        box=box.SIMPLE_HEAD, title_justify="left",
    )  # fmt: skip
    for column in ("d_min Å", "group", "method"):
        table.add_column(column)
    for column in ("solved", "non-trivial", "solvable", "map cc ≥ 0.8", "best start", "s (median)"):
        table.add_column(column, justify="right")
    for row in summary["results"]:
        n, apart = row["n"], row["n_nontrivial"]
        table.add_row(
            f"{row['d_min']:g}", row["group"], row["method"], f"{row['solved']}/{n}",
            f"{row['solved_nontrivial']}/{apart}", f"{row['solvable_nontrivial']}/{apart}",
            f"{row['map_cc_0.8_nontrivial']}/{apart}", f"{row['best_start_0.8_nontrivial']}/{apart}",
            f"{row['median_seconds']:.1f}",
        )  # fmt: skip
    console = _console()
    console.print(table)
    console.print(f"written to {summary['out']}", soft_wrap=True)


# -- sets ------------------------------------------------------------------------------------


def _crystals(name: str, path: str) -> list[Task]:
    if name == "aflow":
        return [_task(c, "aflow") for c in aflow()]
    if name == "shared":
        return [_task(c, "organic" if has_c_and_h(c) else "inorganic") for c in shared(path)]
    return [_task(c, "list") for c in listed(path)]


def _task(crystal: Crystal, group: str) -> Task:
    return Task(crystal.with_default_u_iso(DEFAULT_U_ISO), 1.0, (), group)


def aflow() -> list[Crystal]:
    """The AFLOW prototypes of at least 6 atoms, of 80 to 1000 Å³, with edges of at most 14 Å."""
    from phaseray.sources import prototypes

    every = (prototypes.prototype(i) for i in range(prototypes.count()))
    return [c for c in every if c.n_atoms >= 6 and 80 <= c.volume <= _MAX_VOLUME and c.cell[:3].max() <= _MAX_EDGE]


def shared(path: str) -> list[Crystal]:
    """The ordered crystals of at most 1000 Å³ in the test split of a folder or archive of CIFs."""
    from phaseray.pipeline.split import split_of
    from phaseray.sources.files import list_inputs, read_inputs

    found = []
    for _, crystal, _ in read_inputs(list_inputs(CifSource(path=path), 0)):
        if isinstance(crystal, Rejection) or crystal.volume > _MAX_VOLUME or (crystal.occupancy < 1).any():
            continue
        if split_of(crystal.reduced_formula, SplitConfig()) == "test":
            found.append(crystal)
    return found


def listed(path: str) -> list[Crystal]:
    """The fixed hundred of the promise at 0.9 Å: AFLOW prototypes, and members of the archive at `path`."""
    ids = (Path(__file__).parent / "phasing" / "lists" / "promise.txt").read_text().split("\n")
    wanted = [line for line in ids if line and not line.startswith("#")]
    # an id holds the name of its archive, which may lie elsewhere under another one
    known = {c.id: c for c in aflow()} | {c.id.split("/", 1)[1]: c for c in shared(path)}
    missing = [w for w in wanted if w not in known]
    if missing:
        raise ConfigError(f"{len(missing)} crystals of the list are not in {path}, the first {missing[0]}")
    return [known[w] for w in wanted]


def measured(path: str) -> list[Task]:
    """Folders with structure.cif and reflections.hkl; the probe is the one with which the structure fits better.

    Sets whose structure does not fit (R over 0.25 with either probe) are left out: there is no truth to compare with.
    """
    from phaseray.sources.cif import read_cif
    from phaseray.sources.reflections import merge, read_reflections

    tasks = []
    for folder in sorted(Path(path).iterdir()):
        if not ((folder / "structure.cif").is_file() and (folder / "reflections.hkl").is_file()):
            continue
        try:
            crystal = read_cif((folder / "structure.cif").read_bytes(), id=folder.name)
        except Rejection as rejection:
            print(f"{folder.name} left out: {rejection}")
            continue
        if crystal.space_group is None:
            print(f"{folder.name} left out: its space group is not known")
            continue
        merged = merge(read_reflections(folder / "reflections.hkl"), crystal.space_group)
        fits = {p: r_factor(merged.amplitude, structure_factors(crystal, merged.hkl, probe=p)) for p in _PROBES}
        probe = min(fits, key=lambda p: fits[p])
        if fits[probe] > 0.25:
            print(f"{folder.name} left out: R of its own structure is {fits[probe]:.2f}")
            continue
        group = "measured" if probe is Probe.XRAY else "measured, neutrons"
        data = (merged.hkl, merged.amplitude, merged.sigma)
        tasks.append(Task(crystal, 1.0, (), group, measured=data, probe=probe))
    if not tasks:
        raise ConfigError(f"{path} has no folder with structure.cif and reflections.hkl")
    return tasks


_PROBES = (Probe.XRAY, Probe.NEUTRON)


def _spread(tasks: list[Task], most: int | None) -> list[Task]:
    if most is None or most >= len(tasks):
        return tasks
    if most < 1:
        raise ConfigError(f"--max must be at least 1, not {most}")
    return [tasks[i] for i in np.linspace(0, len(tasks) - 1, most).round().astype(int)]


# -- outputs ---------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text)
    os.replace(aside, path)


def _write_csv(path: Path, cases: list[Case]) -> None:
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Case)])
        writer.writeheader()
        for case in cases:
            row = asdict(case)
            for key, value in row.items():
                if isinstance(value, float):
                    row[key] = f"{value:.4g}"
            writer.writerow(row)
    os.replace(aside, path)


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Share of crystals solved against d_min, a line a method and a panel a group; the ceiling is grey."""
    from matplotlib.figure import Figure

    from phaseray.evaluation.score_figures import COLOURS, GREY

    groups = list(dict.fromkeys(row["group"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(4.2 * len(groups) + 0.4, 3.4), layout="constrained")
    for i, group in enumerate(groups):
        axes = figure.add_subplot(1, len(groups), i + 1)
        mine = [row for row in rows if row["group"] == group and row["n_nontrivial"]]
        for j, method in enumerate(methods):
            line = [r for r in mine if r["method"] == method]
            share = [100 * r["solved_nontrivial"] / r["n_nontrivial"] for r in line]
            colour = COLOURS[j % len(COLOURS)]
            axes.plot([r["d_min"] for r in line], share, "-o", ms=4, color=colour, label=method.replace("_", " "))
        ceiling = {r["d_min"]: 100 * r["solvable_nontrivial"] / r["n_nontrivial"] for r in mine}
        axes.plot(list(ceiling), list(ceiling.values()), ":", color=GREY, label="true phases")
        axes.set(xlabel="d_min (Å)", ylabel="solved, non-trivial (%)", ylim=(-3, 103), title=group)
        axes.legend(frameon=False, fontsize=8)
    aside = path.with_suffix(".tmp.png")
    figure.savefig(aside, dpi=150)
    os.replace(aside, path)
