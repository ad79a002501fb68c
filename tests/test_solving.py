"""`phaseray solve`: from files as a diffractometer leaves them to what a refinement begins with."""

import json

import gemmi
import numpy as np
import pytest

import phaseray
from phaseray.cli import run
from phaseray.diffraction.structure_factors import structure_factors
from phaseray.phasing.problem import half_sphere
from phaseray.sources import prototypes

FILES = {
    "map.ccp4", "phases.mtz", "solved.res", "solved.hkl", "solved.cif", "report.html", "summary.json", "config.yaml",
}  # fmt: skip


@pytest.fixture(scope="module")
def quartz():
    name = next(n for n in prototypes.names() if "A2B_hP9_152_c_a-O2Si" in n)
    return prototypes.prototype(prototypes.names().index(name)).with_default_u_iso(0.01)


def written(folder, crystal, *, instructions=True, kind="F2", d_min=1.0):
    """data.hkl, and data.ins beside it: the whole sphere, every reflection once."""
    hkl = half_sphere(crystal.cell, d_min)
    f = abs(structure_factors(crystal, hkl))
    value = f**2 if kind == "F2" else f
    lines = [
        f"{h:4d}{k:4d}{n_l:4d}{v:8.2f}{max(0.02 * v, 0.05):8.2f}" for (h, k, n_l), v in zip(hkl, value, strict=True)
    ]
    (folder / "data.hkl").write_text("\n".join([*lines, "   0   0   0    0.00    0.00"]) + "\n")
    if instructions:
        cell = " ".join(f"{x:.4f}" for x in crystal.cell)
        (folder / "data.ins").write_text(
            f"TITL quartz\nCELL 0.71073 {cell}\nLATT -1\nSYMM -y,x-y,z+1/3\nSYMM -x+y,-x,z+2/3\nSYMM y,x,-z\n"
            "SYMM x-y,-y,-z+2/3\nSYMM -x,-x+y,-z+1/3\nSFAC O Si\nUNIT 6 3\n"
            f"HKLF {4 if kind == 'F2' else 3}\nEND\n"
        )
    return folder / "data.hkl"


def test_quartz_is_solved_from_its_hkl_and_ins(tmp_path, quartz, capsys):
    path, out = written(tmp_path, quartz), tmp_path / "out"
    assert run(["solve", str(path), "-o", str(out), "--time-limit", "0", "--seed", "1"]) == 0
    assert {p.name for p in out.iterdir()} == FILES
    said = capsys.readouterr().out
    assert "data: solved" in said
    assert "Si" in said
    summary = json.loads((out / "summary.json").read_text())
    assert summary["verdict"] == "solved"
    assert summary["probability"] > 0.8
    assert summary["space_group"] == "P 31 2 1"
    assert (summary["space_group_from"], summary["formula_from"]) == ("data.ins", "data.ins")
    assert (summary["atoms"], summary["units"]) == (2, 3)
    assert summary["completeness"] == 1
    assert summary["r1"] < 0.03
    # the same crystal, as another program sees it; either hand has the same amplitudes
    matcher = pytest.importorskip("pymatgen.analysis.structure_matcher").StructureMatcher(ltol=0.01, stol=0.05)
    assert matcher.fit(phaseray.read_cif(out / "solved.cif").to_pymatgen(), quartz.to_pymatgen())
    # the map has its peaks on these atoms
    ccp4 = gemmi.read_ccp4_map(str(out / "map.ccp4"), setup=True)
    for atom in phaseray.read_cif(out / "solved.cif").positions:
        assert ccp4.grid.interpolate_value(gemmi.Fractional(*atom)) > 4 * ccp4.grid.array.std() * 0.5
    assert "<img" in (out / "report.html").read_text()


def test_what_solve_writes_can_be_solved_again(tmp_path, quartz):
    path, out = written(tmp_path, quartz, kind="F"), tmp_path / "out"
    assert run(["solve", str(path), "-o", str(out), "--time-limit", "0"]) == 0
    assert "HKLF 3" in (out / "solved.res").read_text()
    again = tmp_path / "again"
    assert run(["solve", str(out / "solved.hkl"), "-o", str(again), "--time-limit", "0"]) == 0
    first, second = (json.loads((o / "summary.json").read_text()) for o in (out, again))
    assert (first["verdict"], second["verdict"]) == ("solved", "solved")
    assert second["space_group_from"] == "solved.res"


def test_without_space_group_and_formula_both_are_looked_for_in_the_map(tmp_path, quartz, capsys):
    path, out = written(tmp_path, quartz, instructions=False), tmp_path / "out"
    cell = " ".join(f"{x:.4f}" for x in quartz.cell)
    assert run(["solve", str(path), "-o", str(out), "--cell", cell, "--time-limit", "0"]) == 0
    assert {p.name for p in out.iterdir()} == FILES - {"solved.cif"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["verdict"] == "solved"
    assert gemmi.SpaceGroup(summary["space_group"]).number in (152, 154)
    assert summary["space_group_from"] == "the map"
    assert (summary["atoms"], summary["units"]) == (2, None)
    assert "whose elements are not known" in " ".join(capsys.readouterr().out.split())


def test_the_same_seed_gives_the_same_files(tmp_path, quartz):
    path = written(tmp_path, quartz)
    for name in ("a", "b"):
        assert run(["solve", str(path), "-o", str(tmp_path / name), "--time-limit", "0", "--formula", "SiO2"]) == 0
    for name in ("map.ccp4", "solved.res", "solved.hkl", "solved.cif"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_map_that_is_wrong_is_not_called_right(tmp_path):
    # random amplitudes belong to no crystal
    rng = np.random.default_rng(3)
    cell = (6.0, 7.0, 8.0, 90.0, 90.0, 90.0)
    hkl = half_sphere(cell, 1.5)
    lines = [
        f"{h:4d}{k:4d}{n_l:4d}{v:8.2f}{1.0:8.2f}"
        for (h, k, n_l), v in zip(hkl, 900 * rng.random(len(hkl)), strict=True)
    ]
    (tmp_path / "data.hkl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    arguments = ["--cell", "6 7 8 90 90 90", "--space-group", "P 1", "--set", "solve.starts=2", "--time-limit", "20"]
    assert run(["solve", str(tmp_path / "data.hkl"), "-o", str(out), *arguments]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["verdict"] == "not solved"
    assert any("--formula" in line for line in summary["advice"])


def test_neutrons_are_not_called_solved(tmp_path, quartz):
    path, out = written(tmp_path, quartz, instructions=False), tmp_path / "out"
    a, b, c, alpha, beta, gamma = quartz.cell
    (tmp_path / "data.cif").write_text(
        f"data_x\n_cell_length_a {a}\n_cell_length_b {b}\n_cell_length_c {c}\n_cell_angle_alpha {alpha}\n"
        f"_cell_angle_beta {beta}\n_cell_angle_gamma {gamma}\n_symmetry_space_group_name_H-M 'P 31 2 1'\n"
        "_chemical_formula_sum 'O2 Si'\n_diffrn_radiation_probe neutron\n"
    )
    assert run(["solve", str(path), "-o", str(out), "--time-limit", "0"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["radiation"], summary["verdict"]) == ("neutron", "uncertain")
    assert "neutron data" in summary["advice"][0]


def test_a_formula_of_a_file_that_is_none_is_left_out(tmp_path, quartz, capsys):
    path, out = written(tmp_path, quartz), tmp_path / "out"
    instructions = (tmp_path / "data.ins").read_text()
    (tmp_path / "data.ins").write_text(instructions.replace("SFAC O Si", "SFAC O Qq"))
    assert run(["solve", str(path), "-o", str(out), "--time-limit", "0"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["verdict"], summary["units"]) == ("solved", None)
    assert run(["solve", str(path), "-o", str(out), "--formula", "O2Qq"]) == 1
    assert "Qq" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 1, "give --cell"),
        (["--cell", "5 5 5"], 2, "solve.cell"),
        (["--cell", "5 5 5 90 90 200"], 1, "cell"),
        (["--cell", "4.9 4.9 5.4 90 90 120", "--method", "guessing"], 2, "solve.method"),
        (["--cell", "4.9 4.9 5.4 90 90 120", "--space-group", "P 99"], 1, "P 99"),
        (["--cell", "4.9 4.9 5.4 90 90 120", "--formula", "Xx2"], 1, "Xx2"),
        (["--cell", "4.9 4.9 5.4 90 90 120", "--set", "solve.device=nowhere"], 2, "nowhere"),
        (["--cell", "4.9 4.9 5.4 90 90 120", "--d-min", "50"], 1, "no reflection has d"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, quartz, capsys, arguments, status, words):
    path = written(tmp_path, quartz, instructions=False)
    assert run(["solve", str(path), "-o", str(tmp_path / "out"), *arguments]) == status
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_command_is_left_alone(tmp_path, quartz, capsys):
    path = written(tmp_path, quartz)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    assert run(["solve", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "another command" in capsys.readouterr().err
