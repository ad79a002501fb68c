"""MTZ files: which columns are read, what these files say of the crystal, and those that lie."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

from phaseray.sources.experiment import read_experiment
from tests.sources.experiment_files import INS, folder


def write_mtz(path: Path, columns: dict[str, tuple[str, list[float]]], wavelength: float = 0.9) -> Path:
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 21 21 21")
    mtz.set_cell_for_all(gemmi.UnitCell(10, 11, 12, 90, 90, 90))
    mtz.add_dataset("x").wavelength = wavelength
    for name, (letter, _) in columns.items():
        mtz.add_column(name, letter)
    hkl = [[1, 2, 3], [0, 2, 4], [3, -1, 5]]
    mtz.set_data(np.column_stack([hkl, *(values for _, values in columns.values())]).astype(np.float32))
    mtz.write_to_file(str(path))
    return path


NAN = float("nan")
FREE = ("I", [0.0, 1.0, 2.0])
CALCULATED = ("F", [9.0, 9.0, 9.0])
PHASE = ("P", [90.0, 90.0, 90.0])
AMPLITUDE, OF_AMPLITUDE = ("F", [4.0, 5.0, NAN]), ("Q", [0.5, 0.25, NAN])
INTENSITY, OF_INTENSITY = ("J", [16.0, NAN, -1.0]), ("Q", [2.0, NAN, 4.0])


@pytest.mark.parametrize(
    ("columns", "kind", "hkl", "values", "sigmas"),
    [
        (
            {"FREE": FREE, "F": AMPLITUDE, "SIGF": OF_AMPLITUDE, "I": INTENSITY, "SIGI": OF_INTENSITY},
            "F2", [[1, 2, 3], [3, -1, 5]], [16, -1], [2, 4],
        ),
        (
            {"FC": CALCULATED, "PHIC": PHASE, "F": AMPLITUDE, "SIGF": OF_AMPLITUDE},
            "F", [[1, 2, 3], [0, 2, 4]], [4, 5], [0.5, 0.25],
        ),
        (
            {
                "I(+)": ("K", [10.0, NAN, NAN]), "SIGI(+)": ("M", [3.0, NAN, NAN]),
                "I(-)": ("K", [20.0, 8.0, NAN]), "SIGI(-)": ("M", [4.0, 2.0, NAN]),
            },
            "F2", [[1, 2, 3], [0, 2, 4]], [15, 8], [2.5, 2],
        ),
        ({"F(+)": ("G", [1.0, 2.0, NAN]), "F(-)": ("G", [3.0, NAN, 5.0])}, "F", [[1, 2, 3], [0, 2, 4], [3, -1, 5]],
         [2, 2, 5], None),
        ({"I": INTENSITY}, "F2", [[1, 2, 3], [3, -1, 5]], [16, -1], None),
    ],
)  # fmt: skip
def test_columns_of_an_mtz_file(tmp_path, columns, kind, hkl, values, sigmas):
    path = write_mtz(tmp_path / "data.hkl", columns)
    found = read_experiment(path, kind="F2" if kind == "F" else "F")
    assert found.reflections.kind == kind
    assert found.reflections.hkl.tolist() == hkl
    assert found.reflections.value.tolist() == values
    assert (None if found.reflections.sigma is None else found.reflections.sigma.tolist()) == sigmas
    assert found.cell.tolist() == [10, 11, 12, 90, 90, 90]
    assert found.space_group.xhm() == "P 21 21 21"
    assert found.wavelength == pytest.approx(0.9)
    assert found.origins == dict.fromkeys(("cell", "space_group", "wavelength"), "data.hkl")


def test_the_formula_of_an_mtz_file_stands_beside_it(tmp_path):
    path = write_mtz(tmp_path / "data.mtz", {"I": INTENSITY}, wavelength=0)
    folder(tmp_path, ins=INS)
    found = read_experiment(path)
    assert found.origins == {
        "cell": "data.mtz",
        "space_group": "data.mtz",
        "formula": "data.ins",
        "wavelength": "data.ins",
    }


def test_an_mtz_file_may_have_a_number_for_what_is_missing(tmp_path):
    path = write_mtz(tmp_path / "data.mtz", {"I": ("J", [16.0, -99.0, -1.0])})
    path.write_bytes(path.read_bytes().replace(b"VALM NAN", b"VALM -99"))
    assert read_experiment(path).reflections.value.tolist() == [16, -1]


def test_an_mtz_file_that_holds_nothing_measured_is_told(tmp_path):
    path = write_mtz(tmp_path / "data.mtz", {"FC": CALCULATED, "PHIC": PHASE})
    with pytest.raises(ValueError, match=r"data\.mtz: the MTZ file has no measured intensities"):
        read_experiment(path)


def test_an_mtz_file_that_is_cut_or_lies_is_told(tmp_path):
    path = write_mtz(tmp_path / "data.mtz", {"I": INTENSITY})
    content = path.read_bytes()
    for damaged in (content[:100], content[:1000], b"MTZ " + b"\0" * 100, content.replace(b"J ", b"\xff ", 1)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"data\.mtz: "):
            read_experiment(path)
    number = content.index(b"NCOL")
    path.write_bytes(content[:number] + b"NCOL        4   1999999999" + content[number + 26 :])
    with pytest.raises(ValueError, match="shorter than its header says"):
        read_experiment(path)
