"""Configuration: frozen pydantic models. One YAML file describes one run.

Every section has defaults, unknown keys are errors, and the resolved configuration is written
next to every output. `digest` names a configuration in dataset.json and in MLflow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phaseray.diffraction.grid import FixedGrid, GridSpec, SpacingGrid

__all__ = [
    "Config", "ConfigError", "EvaluateConfig", "FixedGrid", "GenerateConfig", "IngestConfig", "Limits",
    "MlpConfig", "ModelConfig", "RayConfig", "Source", "SpacingGrid", "SplitConfig", "TrackingConfig",
    "TrainConfig", "UNetConfig", "digest", "load", "to_yaml",
]  # fmt: skip

Range = tuple[float, float]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and why."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- sources ---------------------------------------------------------------------------------


class PrototypesSource(_Section):
    """The AFLOW prototypes inside pymatgen (288)."""

    kind: Literal["prototypes"] = "prototypes"


class SyntheticSource(_Section):
    """Artificial crystals: random atoms of random elements, drawn from a seed."""

    kind: Literal["synthetic"] = "synthetic"
    count: int = Field(1000, ge=0)
    edge: Range = Field((4.0, 10.0), description="cell edges in Å")
    angle: Range = Field((80.0, 110.0), description="cell angles in degrees")
    orthogonal_fraction: float = Field(0.4, ge=0, le=1, description="share of cells with three right angles")
    volume_per_atom: Range = Field((11.0, 22.0), description="Å³ an atom")
    max_atoms: int = Field(200, ge=1)
    elements: tuple[str, ...] = (
        "Li", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Ti", "V", "Cr", "Mn", "Fe",
        "Co", "Ni", "Cu", "Zn", "As", "Se", "Br", "Sr", "Zr", "Ag", "Sn", "I", "Ba", "Pb",
    )  # fmt: skip
    elements_per_crystal: tuple[int, int] = (1, 4)
    min_distance: Range = Field((1.3, 2.2), description="least distance between atoms in Å, drawn per crystal")
    centrosymmetric_fraction: float = Field(0.5, ge=0, le=1)
    u_iso: Range = Field((0.005, 0.04), description="Å²")


class CifSource(_Section):
    """CIF files: one file, a folder (searched through), or a tar or zip archive of them."""

    kind: Literal["cif"] = "cif"
    path: str
    pattern: str = "*.cif"


Source = Annotated[PrototypesSource | SyntheticSource | CifSource, Field(discriminator="kind")]


class Limits(_Section):
    """What is over a limit is rejected as too_large."""

    max_atoms: int = Field(5000, ge=1, description="in the whole cell")
    max_volume: float = Field(100_000.0, gt=0, description="Å³")
    max_bytes: int = Field(20_000_000, ge=1, description="of one CIF")


class SplitConfig(_Section):
    """Shares of validation and test; all crystals of one reduced formula fall in the same split."""

    val: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _leaves_training(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise ValueError("val + test must leave something to train on (< 1)")
        return self


class IngestConfig(_Section):
    sources: tuple[Source, ...] = (PrototypesSource(), SyntheticSource())
    limits: Limits = Limits()
    split: SplitConfig = SplitConfig()
    rows_per_part: int = Field(256, ge=1, description="crystals a catalogue file; the unit of work")


# -- grids -----------------------------------------------------------------------------------


class GenerateConfig(_Section):
    grid: Annotated[GridSpec, Field(discriminator="kind")] = FixedGrid(32)
    d_min: float = Field(1.0, gt=0, description="Å")
    default_u_iso: float = Field(0.02, ge=0, description="Å², for atoms whose displacement is not known")
    max_grid_points: int = Field(4_000_000, ge=64, description="crystals that need a larger grid are rejected")
    rows_per_shard: int = Field(256, ge=1)


# -- models and training ---------------------------------------------------------------------


class MlpConfig(_Section):
    """Multi-layer perceptron with the defaults of scikit-learn's MLPRegressor. Fixed grids only."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = (100,)


class UNetConfig(_Section):
    """3D U-Net (Çiçek et al. 2016)."""

    kind: Literal["unet"] = "unet"
    width: int = Field(16, ge=1, description="channels at full resolution; doubled at each level")
    depth: int = Field(3, ge=1, description="levels, the full-resolution one included")
    padding: Literal["periodic", "zero"] = "periodic"
    norm: Literal["group", "batch", "none"] = "group"


ModelConfig = Annotated[MlpConfig | UNetConfig, Field(discriminator="kind")]


class TrainConfig(_Section):
    model: ModelConfig = UNetConfig()
    input: Literal["intensities", "amplitudes", "patterson", "zero_phase"] = "intensities"
    loss: Literal["mse", "mse_any_origin"] = "mse"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    l2: float = Field(0.0, ge=0, description="scikit-learn's alpha: l2 / (2 · batch) · |W|² is added to the loss")
    batch_size: int = Field(8, ge=1)
    epochs: int = Field(5, ge=1)
    max_minutes: float | None = Field(None, gt=0, description="no new epoch is begun after this time")
    workers: int = Field(1, ge=1)
    use_gpu: bool = False
    threads_per_worker: int | None = Field(None, ge=1, description="default: the cores shared out")
    max_failures: int = Field(1, ge=0, description="restarts from the last checkpoint")
    seed: int | None = Field(None, description="default: the run's seed")


class EvaluateConfig(_Section):
    split: Literal["train", "val", "test"] = "test"
    max_crystals: int | None = Field(None, ge=1)
    examples: int = Field(4, ge=1, description="crystals drawn in the report")


class RayConfig(_Section):
    address: str | None = Field(None, description="None: the cluster this runs in, else a private local one")
    num_cpus: int | None = Field(None, ge=1, description="logical CPUs of a private cluster; default max(4, cores)")
    actors: int | None = Field(None, ge=1, description="of the computing stages; default: one a CPU")


class TrackingConfig(_Section):
    uri: str | None = Field(None, description="default: sqlite in the output folder")
    experiment: str = "phaseray"


class Config(_Section):
    """One run."""

    seed: int = 0
    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()
    ingest: IngestConfig = IngestConfig()
    generate: GenerateConfig = GenerateConfig()
    train: TrainConfig = TrainConfig()
    models: dict[str, TrainConfig] = Field(default_factory=dict, description="named trainings, for `demo`")
    evaluate: EvaluateConfig = EvaluateConfig()


# -- files -----------------------------------------------------------------------------------

_Model = TypeVar("_Model", bound=BaseModel)


def load(path: str | Path | None, overrides: Sequence[str] = (), model: type[_Model] = Config) -> _Model:  # type: ignore[assignment]
    """Read a YAML file (None: all defaults), apply dotted overrides (`generate.d_min=1.5`), validate.

    Raises
    ------
    ConfigError
        Says which key is wrong and why.
    """
    data: Any = {}
    if path is not None:
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path} must hold keys and values, not {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        where = str(path) if path is not None else "the configuration"
        lines = [f"  {'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join([f"{where} cannot be used:", *lines])) from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"an override reads key=value, not {override!r}")
    *parents, last = key.split(".")
    for name in parents:
        child: Any = data[int(name)] if isinstance(data, list) and name.isdigit() else data.setdefault(name, {})
        if not isinstance(child, dict | list):
            raise ConfigError(f"override {override!r}: {name} holds no keys")
        data = child  # type: ignore[assignment]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML") from error
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string
        try:
            value = float(value)
        except ValueError:
            pass
    data[last] = value


def to_yaml(config: BaseModel) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def digest(*parts: Any) -> str:
    """16 hex digits that name a configuration: SHA-256 of its canonical JSON."""
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
