"""What a measured file and those beside it say: SHELX instructions, CIF and FCF, MTZ, and what is given."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import gemmi
import numpy as np
import pytest

from phaseray.sources.experiment import read_experiment
from tests.sources.experiment_files import CELL, EVERYTHING, HKL, INS, OF_CELL, OF_CRYSTAL, folder


def test_instructions_beside_a_list_tell_its_crystal(tmp_path):
    found = read_experiment(folder(tmp_path, hkl=HKL, ins=INS))
    assert found.reflections.hkl.tolist() == [[1, 0, 0], [0, 2, 0], [1, 1, -2]]
    assert found.reflections.kind == "F2"
    assert found.cell.tolist() == CELL
    assert found.space_group.xhm() == "P 1 21/c 1"
    assert found.formula == "C48 H40 N8"
    assert found.wavelength == 0.71073
    assert found.origins == dict.fromkeys(EVERYTHING, "data.ins")


def test_ins_counts_before_res_and_that_before_cif(tmp_path):
    short = INS.replace("UNIT 48 40 8 0\n", "")
    res = INS.replace("UNIT 48 40 8 0", "UNIT 44 40 8 0").replace("7.1", "7.11")
    cif = f"data_x\n{OF_CELL}{OF_CRYSTAL}"
    found = read_experiment(folder(tmp_path, hkl=HKL, ins=short, res=res, cif=cif))
    assert found.cell.tolist() == CELL
    assert found.formula == "C44 H40 N8"
    assert found.origins == dict.fromkeys(EVERYTHING, "data.ins") | {"formula": "data.res"}
    (tmp_path / "data.ins").unlink()
    (tmp_path / "data.res").unlink()
    found = read_experiment(tmp_path / "data.hkl")
    assert found.formula == "C12 H10 N2 O"
    assert found.origins == dict.fromkeys(EVERYTHING, "data.cif")


def test_files_of_another_name_are_not_used(tmp_path):
    (tmp_path / "other.ins").write_text(INS)
    path = folder(tmp_path, hkl=HKL)
    message = (
        f"{path}: the cell is not in the file and there is no data.ins, data.res, data.cif or data.fcf beside it: "
        "give --cell"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_experiment(path)
    (tmp_path / "data.ins").write_text("TITL nothing\nSFAC C\n")
    with pytest.raises(ValueError, match=r"neither in the file nor in data\.ins beside it: give --cell"):
        read_experiment(path)


def test_what_is_given_counts_more_than_files(tmp_path):
    path = folder(tmp_path, hkl=HKL, ins=INS)
    cell = [7.15, 8.2, 9.3, 90, 102.5, 90]
    found = read_experiment(path, cell=cell, space_group="P 21", formula="C6 H6", kind="F")
    assert found.cell.tolist() == cell
    assert found.space_group.xhm() == "P 1 21 1"
    assert found.formula == "C6 H6"
    assert found.reflections.kind == "F"
    assert found.origins == {
        "cell": "given",
        "space_group": "given",
        "formula": "given",
        "wavelength": "data.ins",
    }
    assert read_experiment(path, space_group="14").space_group.xhm() == "P 1 21/c 1"


def test_the_space_group_of_another_cell_is_not_taken(tmp_path):
    found = read_experiment(folder(tmp_path, hkl=HKL, ins=INS), cell=[9.3, 8.2, 7.1, 90, 102.5, 90])
    assert found.space_group is None
    assert found.formula == "C48 H40 N8"
    assert "space_group" not in found.origins


@pytest.mark.parametrize("word", ["none", "None", " NONE "])
def test_a_formula_may_be_refused(tmp_path, word: str):
    found = read_experiment(folder(tmp_path, hkl=HKL, ins=INS), formula=word)
    assert found.formula is None
    assert "formula" not in found.origins


def test_a_rhombohedral_group_has_the_axes_of_the_cell(tmp_path):
    path = folder(tmp_path, hkl=HKL)
    for cell, expected in (([9, 9, 12, 90, 90, 120], "R -3:H"), ([7, 7, 7, 80, 80, 80], "R -3:R")):
        assert read_experiment(path, cell=cell, space_group="R -3").space_group.xhm() == expected
    with pytest.raises(ValueError, match="R -3:H does not fit the cell 7 7 7 80 80 80"):
        read_experiment(path, cell=[7, 7, 7, 80, 80, 80], space_group="R -3:H")
    folder(tmp_path, ins="CELL 0.7 9 9 12 90 90 120\nLATT 3\nSYMM -Y, X-Y, Z\nSYMM Y-X, -X, Z\n")
    assert read_experiment(path).space_group.xhm() == "R -3:H"


def test_items_of_a_cif_below_a_list_do_not_make_it_one(tmp_path):
    below = "_diffrn_reflns_theta_max 25\ndata_x\nloop_\n"
    assert len(read_experiment(folder(tmp_path, hkl=HKL + below), cell=CELL).reflections) == 3


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([5, 6, 7], "the cell that is given is 3 numbers; six are wanted"),
        ("large", "is not six numbers"),
        ([5, 6, 7, 90, 90, float("nan")], "not above zero"),
        ([5, 6, -7, 90, 90, 90], r"\(5 6 -7 90 90 90\) has numbers that are not above zero"),
        ([5, 6, 7, 90, 90, 190], "angles that do not close a cell"),
        ([5, 6, 7, 120, 120, 130], "angles that do not close a cell"),
        ([5e9, 6, 7, 90, 90, 90], "edges that no crystal has"),
        ([0.05, 0.06, 0.07, 90, 90, 90], r"data\.hkl: the cell .* does not belong to the reflections"),
        ([5000, 6000, 7000, 90, 90, 90], r"data\.hkl: the cell .* does not belong to the reflections"),
    ],
)
def test_a_cell_that_cannot_be_is_told(tmp_path, cell, message: str):
    with pytest.raises(ValueError, match=message):
        read_experiment(folder(tmp_path, hkl=HKL), cell=cell)


def test_a_cell_in_nm_is_told(tmp_path):
    edges, angles = np.array(CELL[:3]), CELL[3:]
    hkl = np.array([[h, k, n] for h in range(-8, 9) for k in range(10) for n in range(11) if h or k or n])
    path = tmp_path / "data.hkl"
    path.write_text("".join(f"{h:4d}{k:4d}{n:4d}{100:8.2f}{1:8.2f}\n" for h, k, n in hkl))
    assert len(read_experiment(path, cell=CELL).reflections) == len(hkl)
    # some of them would have spacings that are measured
    with pytest.raises(ValueError, match=r"does not belong to the reflections: half .* below 0\.3 Å.*not in nm"):
        read_experiment(path, cell=[*edges / 10, *angles])


@pytest.mark.parametrize(
    ("cell", "group", "fits"),
    [
        ([5, 5.09, 7, 90, 90, 90], "P 4/m", True),
        ([5, 5.2, 7, 90, 90, 90], "P 4/m", False),
        ([5, 5, 5.2, 90, 90, 90], "P m -3 m", False),
        ([5, 5, 7, 90, 90, 90], "P 6/m", False),
        ([5, 5, 7, 90, 90, 119.8], "P 6/m", True),
        ([5, 6, 7, 90, 100, 90], "P 21/c", True),
        ([5, 6, 7, 100, 90, 90], "P 21/c", False),
        ([5, 6, 7, 80, 100, 70], "P -1", True),
    ],
)
def test_a_space_group_must_fit_the_cell(tmp_path, cell: list[float], group: str, fits: bool):
    path = folder(tmp_path, hkl=HKL)
    if fits:
        assert read_experiment(path, cell=cell, space_group=group).space_group is not None
    else:
        with pytest.raises(
            ValueError, match=r"data\.hkl: the space group P .* does not fit the cell 5 .*--space-group"
        ):
            read_experiment(path, cell=cell, space_group=group)


def test_a_space_group_that_is_none_is_told(tmp_path):
    for name in ("P 99", "231"):
        with pytest.raises(ValueError, match="no space group"):
            read_experiment(folder(tmp_path, hkl=HKL), cell=CELL, space_group=name)


@pytest.mark.parametrize("name", ["data.hkl", "data.ins"])
def test_endless_files_are_not_read_to_their_end(tmp_path, name: str):
    path = folder(tmp_path, hkl=HKL, ins=INS)
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: over 64 MiB"):
        read_experiment(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path, end: str):
    for suffix, text in (("hkl", HKL), ("ins", INS)):
        (tmp_path / f"data.{suffix}").write_bytes(text.replace("\n", end).encode())
    assert read_experiment(tmp_path / "data.hkl").origins == dict.fromkeys(EVERYTHING, "data.ins")


WITH_CELL = {
    **{f"cod_{n}": (f"original_{n}.hkl",) for n in (2012000, 2013000, 2016452, 2100301, 2200000)},
    **{f"codtools_{n}": ("original.cif",) for n in (1516218, 1518592, 2238212, 2240655)},
    "gemmi_4003024": ("original.cif",),
    "structurefinder_P-1": ("original_P-1.fcf",),
    "structurefinder_p-1_a": ("original.cif",),
}


@pytest.fixture
def measured(shared_data: Path, tmp_path: Path) -> list[Path]:
    """Folders of measured sets."""
    if not (shared_data / "measured.tar.xz").is_file():
        pytest.skip("no measured sets")
    with tarfile.open(shared_data / "measured.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return sorted(path.parent for path in tmp_path.rglob("structure.cif"))


def test_measured_sets_have_the_cells_of_their_structures(measured: list[Path], tmp_path: Path):
    n = 0
    for folder_of_set in measured:
        structure = gemmi.read_small_structure(str(folder_of_set / "structure.cif"))
        assert structure.spacegroup is not None
        for path in folder_of_set.glob("original*"):
            if path.name not in WITH_CELL.get(folder_of_set.name, ()):
                with pytest.raises(ValueError, match=r"no measured reflections|cell is not in the file"):
                    read_experiment(path)
                continue
            found = read_experiment(path)
            np.testing.assert_allclose(found.cell, structure.cell.parameters, rtol=1e-3)
            assert found.space_group is not None
            assert found.space_group.number == structure.spacegroup.number
            n += 1
        # a list of its own, with the structure beside it under its name
        shutil.copy(folder_of_set / "reflections.hkl", tmp_path / "data.hkl")
        shutil.copy(folder_of_set / "structure.cif", tmp_path / "data.cif")
        found = read_experiment(tmp_path / "data.hkl")
        assert found.origins["cell"] == found.origins["space_group"] == "data.cif"
        assert found.space_group is not None
        assert found.space_group.number == structure.spacegroup.number
    assert len(measured) == 15
    assert n == sum(map(len, WITH_CELL.values()))
