"""`phaseray benchmark-phasing`: what it writes, how it counts, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from phaseray.benchmark_phasing import aflow, benchmark, listed, measured, summarised
from phaseray.cli import run
from phaseray.config import ConfigError
from phaseray.phasing.benchmark import Case, Task, run_task


def case(**known) -> Case:
    values = {
        "id": "a", "group": "aflow", "method": "network", "d_min": 1.5, "n_atoms": 6, "volume": 90.0, "map_cc": 0.9,
        "map_cc_best": 0.95, "atoms_found": 1.0, "solved": True, "solved_by_maxima": False, "trivial": False,
        "solvable": True, "probability": 0.9, "starts": 8, "seconds": 2.0,
    }  # fmt: skip
    return Case(**(values | known))


def test_methods_are_compared_from_the_command_line(tmp_path: Path):
    out = tmp_path / "out"
    arguments = ["--set", "aflow", "--max", "2", "--d-min", "1.5", "--d-min", "2.0", "--workers", "1"]
    methods = ["--methods", "zero,network+formula", "--time-limit", "20", "-o", str(out)]
    assert run(["benchmark-phasing", *arguments, *methods]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["n_crystals"], summary["methods"]) == (2, ["network+formula", "zero"])
    with (out / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["d_min"], r["method"]) for r in rows] == [
        (d, m) for d in ("1.5", "2") for _ in range(2) for m in ("network+formula", "zero")
    ]
    assert all(0 <= float(r["map_cc"]) <= 1 for r in rows)
    told = [r for r in rows if r["method"] == "network+formula"]
    assert any(r["solved"] == "True" for r in told)
    assert (out / "success.png").stat().st_size > 5000
    assert not list(out.glob("*.tmp*"))


def test_a_formula_solves_what_zero_phases_do_not():
    made = next(c for c in aflow() if "A2B3_hR10_167_c_e-Al2O3" in c.id).with_default_u_iso(0.02)
    zero, told = run_task(Task(made, 2.0, ("zero", "network+formula"), "aflow", time_limit=20.0))
    assert (zero.solved, zero.solvable, zero.starts) == (False, True, 1)
    assert (told.solved, told.starts) == (True, 0)
    assert told.map_cc > 0.98
    assert told.probability > 0.9


def test_cases_are_counted_and_trivial_ones_apart():
    cases = [
        case(), case(id="b", solved=False, map_cc=0.7, map_cc_best=0.85), case(id="c", trivial=True, seconds=6.0),
        case(method="zero", solved=False, map_cc=0.3, map_cc_best=0.3), case(d_min=2.0, solvable=False),
    ]  # fmt: skip
    first, second, third = summarised(cases)
    assert (first["d_min"], first["method"], first["n"]) == (1.5, "network", 3)
    assert (first["solved"], first["n_nontrivial"], first["solved_nontrivial"]) == (2, 2, 1)
    assert (first["map_cc_0.8_nontrivial"], first["best_start_0.8_nontrivial"]) == (1, 2)
    assert (first["median_seconds"], first["largest_seconds"]) == (2.0, 6.0)
    assert (second["method"], second["solved"]) == ("zero", 0)
    assert (third["d_min"], third["solvable"]) == (2.0, 0)


def test_the_set_is_what_it_says():
    crystals = aflow()
    assert len(crystals) == 162
    assert all(c.n_atoms >= 6 and 80 <= c.volume <= 1000 and c.cell[:3].max() <= 14 for c in crystals)


@pytest.mark.parametrize(
    ("known", "message"),
    [({"name": "mine"}, "no set 'mine'"), ({"methods": ["magic"]}, "network\\+formula.* not magic"),
     ({"methods": []}, "none at all"), ({"methods": ["zero+formula"]}, "not zero\\+formula"),
     ({"d_mins": [0.0]}, "above 0"), ({"name": "shared"}, "needs --path"), ({"most": 0}, "--max")],
)  # fmt: skip
def test_bad_use_is_told(tmp_path: Path, known, message: str):
    arguments = {"name": "aflow", "d_mins": [1.5], "methods": ["zero"], "out": tmp_path, "most": 1} | known
    name, d_mins, methods, out = (arguments.pop(k) for k in ("name", "d_mins", "methods", "out"))
    with pytest.raises(ConfigError, match=message):
        benchmark(name, d_mins, methods, out, **arguments)


def test_folders_without_data_are_told(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no folder with"):
        measured(str(tmp_path))
    with pytest.raises(ValueError, match="nothing in the CIF source"):
        listed(str(tmp_path / "empty"))
