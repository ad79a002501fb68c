"""A small data set, made once: prototypes, artificial crystals and CIF files, some of them bad."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from phaseray import config as configs
from phaseray.pipeline.catalogue import ingest
from phaseray.pipeline.shards import generate

SALT = """data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na 0 0 0
Cl1 Cl 0.5 0.5 0.5
"""


@pytest.fixture(scope="session")
def cif_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifs")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "salt.cif").write_text(SALT)
    (folder / "no_cell.cif").write_text("\n".join(line for line in SALT.splitlines() if "_cell_" not in line))
    (folder / "empty.cif").write_text("")
    (folder / "noise.cif").write_bytes(bytes(range(256)) * 8)
    return folder


def small(folder: Path, *overrides: str) -> configs.Config:
    sources = f"[{{kind: prototypes}}, {{kind: synthetic, count: 40}}, {{kind: cif, path: '{folder}'}}]"
    return configs.load(
        None,
        [
            f"ingest.sources={sources}", "ingest.rows_per_part=100", "generate.grid.n=16", "generate.d_min=1.8",
            "generate.rows_per_shard=64", *overrides,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def catalogue(ray_cluster: None, cif_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("catalogue") / "c"
    ingest(small(cif_folder), out)
    return out


@pytest.fixture(scope="module")
def shards(catalogue: Path, cif_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "s"
    generate(small(cif_folder), catalogue, out)
    return out
