"""One YAML file describes one run; what is wrong in it is said by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from phaseray import config
from phaseray.config import (
    AmcsdSource,
    CifSource,
    Config,
    ConfigError,
    CoreMofSource,
    FixedGrid,
    IngestConfig,
    MlpConfig,
    PrototypesSource,
    SpacingGrid,
    SyntheticSource,
    TableSource,
    UNetConfig,
    digest,
    load,
    to_yaml,
)

EVERYTHING = """
seed: 7
ingest:
  sources:
    - kind: cif
      path: /data/cod
      pattern: "*.CIF"
    - kind: prototypes
    - kind: synthetic
      count: 12
      elements: [C, N, O]
    - kind: amcsd
    - {kind: core_mof, subsets: [2019-ASR], recover_symmetry: true}
    - {kind: table, path: "s3://mp/docs.parquet", column: structure, options: {region: eu-west-1, anonymous: true}}
  limits: {max_atoms: 100}
generate:
  grid: {kind: spacing, points_per_d_min: 2.5, multiple: 8}
  d_min: 1.5
train:
  model: {kind: mlp, hidden: [10, 20]}
  learning_rate: 1e-4
models:
  small: {model: {kind: unet, width: 4}}
"""


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(EVERYTHING, encoding="utf-8")
    return path


def test_no_file_means_all_defaults():
    assert load(None) == Config()


def test_every_kind_is_read_from_yaml(everything: Path):
    read = load(everything)
    assert read.seed == 7
    assert read.ingest.sources == (
        CifSource(path="/data/cod", pattern="*.CIF"),
        PrototypesSource(),
        SyntheticSource(count=12, elements=("C", "N", "O")),
        AmcsdSource(),
        CoreMofSource(subsets=("2019-ASR",), recover_symmetry=True),
        TableSource(
            path="s3://mp/docs.parquet", column="structure", options={"region": "eu-west-1", "anonymous": True}
        ),
    )
    assert read.generate.grid == SpacingGrid(points_per_d_min=2.5, multiple=8)
    assert read.train.model == MlpConfig(hidden=(10, 20))
    assert read.train.learning_rate == 1e-4
    assert read.models["small"].model == UNetConfig(width=4)
    assert load(None, ["generate.grid={kind: fixed, n: 16}"]).generate.grid == FixedGrid(16)


def test_what_is_written_is_read_back(everything: Path, tmp_path: Path):
    read = load(everything)
    (tmp_path / "again.yaml").write_text(to_yaml(read), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == read
    assert load(None).model_dump() == Config.model_validate(yaml.safe_load(to_yaml(Config()))).model_dump()


def test_a_section_can_be_loaded_alone(tmp_path: Path):
    (tmp_path / "ingest.yaml").write_text("rows_per_part: 3", encoding="utf-8")
    assert load(tmp_path / "ingest.yaml", model=IngestConfig) == IngestConfig(rows_per_part=3)


# -- overrides -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("seed=3", "seed", 3),
        ("generate.d_min=1.25", "generate.d_min", 1.25),
        ("train.learning_rate=1e-5", "train.learning_rate", 1e-5),
        ("train.use_gpu=true", "train.use_gpu", True),
        ("train.max_minutes=null", "train.max_minutes", None),
        ("tracking.uri=http://host:5000?a=b", "tracking.uri", "http://host:5000?a=b"),
        ("train.model.width=32", "train.model.width", 32),
        ("generate.grid.n=16", "generate.grid.n", 16),
        ("ingest.sources.1.count=10", "ingest.sources.1.count", 10),
        ("ingest.sources.1.elements=[C, H]", "ingest.sources.1.elements", ("C", "H")),
        ("ingest.sources=[{kind: cif, path: x.zip}]", "ingest.sources.0.path", "x.zip"),
        ("models.mine.epochs=2", "models.mine.epochs", 2),
    ],
)
def test_an_override_reaches_any_depth(override: str, path: str, expected: Any):
    value: Any = load(None, [override])
    for key in path.split("."):
        if isinstance(value, tuple):
            value = value[int(key)]
        else:
            value = value[key] if isinstance(value, dict) else getattr(value, key)
    assert value == expected


def test_overrides_win_over_the_file_and_later_ones_over_earlier(everything: Path):
    read = load(everything, ["ingest.sources.2.count=5", "seed=1", "seed=2", "train.model.hidden=[7]"])
    assert read.seed == 2
    assert read.ingest.sources[2].count == 5
    assert read.ingest.sources[2].elements == ("C", "N", "O")
    assert read.train.model == MlpConfig(hidden=(7,))


def test_an_override_reaches_a_section_left_empty_in_the_file(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("train:\n", encoding="utf-8")
    assert load(tmp_path / "run.yaml", ["train.epochs=3"]).train.epochs == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", r"an override reads key=value, not 'seed'"),
        ("=3", r"an override reads key=value"),
        ("seed=[1", r"'seed=\[1': the value is not YAML"),
        ("ingest.sources.7.count=1", r"ingest\.sources has 2 items, no '7'"),
        ("ingest.sources.x.count=1", r"ingest\.sources"),
        ("train.epoch=1", r"train\.epoch: Extra inputs are not permitted"),
        ("trian.epochs=1", r"trian: Extra inputs are not permitted"),
    ],
)
def test_an_override_that_cannot_be_applied_is_named(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load(None, [override])


def test_an_override_below_a_plain_value_is_refused(everything: Path):
    with pytest.raises(ConfigError, match=r"'seed.deep=1': seed holds no keys"):
        load(everything, ["seed.deep=1"])


# -- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead: 1", r"sead: Extra inputs are not permitted"),
        ("train: {model: {kind: unet, hidden: [1]}}", r"train\.model\.unet\.hidden: Extra inputs"),
        ("generate: {grid: {kind: fixed, m: 3}}", r"generate\.grid\.fixed\.m"),
        ("ingest: {sources: [{kind: cif}]}", r"ingest\.sources\.0\.cif\.path: Field required"),
        ("ingest: {sources: [{kind: sdf}]}", r"ingest\.sources\.0: .*'sdf'"),
        ("ingest: {sources: [{path: x}]}", r"ingest\.sources\.0: Unable to extract tag"),
        ("ingest: {split: {val: 0.5, test: 0.5}}", r"ingest\.split: .*must leave something to train on"),
        ("generate: {d_min: 0}", r"generate\.d_min: Input should be greater than 0"),
        ("generate: {grid: {kind: fixed, n: 7}}", r"generate\.grid\.fixed: .*must be even"),
        ("seed: -1", r"seed: Input should be greater than or equal to 0"),
        ("seed: [1", r"is not YAML"),
        ("- 1", r"must hold keys and values, not list"),
        (
            "ingest: {sources: [{kind: synthetic, edge: [9, 4]}]}",
            r"synthetic\.edge: .*from low to high.*\[9\.0, 4\.0\]",
        ),
        ("ingest: {sources: [{kind: synthetic, edge: [0, 4]}]}", r"synthetic\.edge: .*above 0"),
        ("ingest: {sources: [{kind: synthetic, angle: [125, 130]}]}", r"synthetic\.angle: .*at 119° at most"),
        ("ingest: {sources: [{kind: synthetic, elements: [Fe, Qq]}]}", r"synthetic\.elements: .*wrong: Qq"),
        ("ingest: {sources: [{kind: synthetic, elements: []}]}", r"synthetic\.elements: .*none given"),
        ("ingest: {sources: [{kind: synthetic, elements_per_crystal: [0, 2]}]}", r"elements_per_crystal: .*above 0"),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, text: str, message: str):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_all_errors_are_told_at_once(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: x\ntrain: {epochs: 0, nonsense: 1}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 4


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot read the config .*none\.yaml: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\xff")
    with pytest.raises(ConfigError, match="is not YAML"):
        load(tmp_path / "latin.yaml")


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


def test_a_config_goes_between_processes(everything: Path):
    read = load(everything)
    assert pickle.loads(pickle.dumps(read)) == read


# -- digest ----------------------------------------------------------------------------------


def test_digest_is_stable():
    """These names stand in files on disk: a change here means that old runs are no longer recognised."""
    assert digest({"b": 1, "a": [1, 2]}) == digest({"a": (1, 2), "b": 1}) == "8759360617cd4e1f"
    assert digest(PrototypesSource()) == "37719d607c123fde"
    assert digest(Config()) == digest(Config.model_validate({"seed": 0})) == digest(load(None))


def changed(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case None:
            return 1
        case list() if value:
            return [*value[:-1], changed(value[-1])]
        case list() | dict():
            return ["x"]
        case _:
            raise TypeError(type(value))


def leaves(value: Any, path: tuple[Any, ...] = ()):
    if isinstance(value, dict) and value:
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i))
    else:
        yield path, value


def test_digest_changes_with_every_single_value(everything: Path):
    plain = load(everything).model_dump(mode="json")
    seen = {digest(plain)}
    assert digest(plain) == digest(load(everything))
    count = 0
    for path, value in leaves(plain):
        other = load(everything).model_dump(mode="json")
        inner: Any = other
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = changed(value)
        seen.add(digest(other))
        count += 1
    assert count > 60
    assert len(seen) == count + 1


def test_every_section_refuses_unknown_keys_and_is_frozen():
    sections = [
        value
        for value in vars(config).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value is not BaseModel
    ]
    assert len(sections) > 12
    for section in sections:
        assert section.model_config["extra"] == "forbid", section
        assert section.model_config["frozen"], section
