"""Configuration: frozen pydantic models. One YAML file describes one run.

Every section has defaults, unknown keys are errors, and the resolved configuration is written
next to every output. `digest` names a configuration in dataset.json and in MLflow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from phaseray.diffraction.grid import FixedGrid, GridSpec, SpacingGrid

__all__ = [
    "Choice", "CleanerConfig", "Config", "ConfigError", "Domain", "EvaluateConfig", "FixedGrid", "GenerateConfig",
    "HoldOut", "IngestConfig", "Limits", "LogUniform", "MlpConfig", "ModelConfig", "MolecularSource", "PhasingConfig",
    "PipelineConfig", "PosterConfig", "RandInt", "RayConfig", "SearchSpace", "SolveConfig", "Source", "SpacingGrid",
    "SplitConfig", "SymmetricSource", "SyntheticSource", "TrackingConfig", "TrainConfig", "TuneConfig", "UNetConfig",
    "Uniform", "digest", "load", "shipped", "to_yaml",
]  # fmt: skip

Range = tuple[float, float]


def _no_secrets(options: dict[str, str | bool | int | float]) -> dict[str, str | bool | int | float]:
    secret = [key for key in options if any(word in key for word in ("key", "secret", "token", "credential", "proxy"))]
    if secret:
        raise ValueError(f"{', '.join(secret)} would be written beside every output: set it in the environment instead")
    return options


StoreOptions = Annotated[dict[str, str | bool | int | float], AfterValidator(_no_secrets)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key and why."""


def _kind_by_default(kind: str) -> BeforeValidator:
    """`--set train.model.width=32` need not say which kind of model the default is."""
    return BeforeValidator(lambda v: {"kind": kind, **v} if isinstance(v, dict) and "kind" not in v else v)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- sources ---------------------------------------------------------------------------------


def _from_low_to_high(value: Range) -> Range:
    if not 0 <= value[0] <= value[1]:
        raise ValueError(f"a range goes from low to high and starts at 0 or above, not {list(value)}")
    return value


def _known_elements(value: tuple[str, ...]) -> tuple[str, ...]:
    import gemmi

    wrong = [symbol for symbol in value if gemmi.Element(symbol).name != symbol or symbol in ("X", "D")]
    if wrong or not value:
        raise ValueError(f"must name elements as in the periodic table; wrong: {', '.join(wrong) or 'none given'}")
    return value


Elements = Annotated[tuple[str, ...], AfterValidator(_known_elements)]


class PrototypesSource(_Section):
    """The AFLOW prototypes inside pymatgen (288)."""

    kind: Literal["prototypes"] = "prototypes"


class SyntheticSource(_Section):
    """Artificial crystals: random atoms of random elements, drawn from a seed."""

    kind: Literal["synthetic"] = "synthetic"
    count: int = Field(default=1000, ge=0)
    edge: Range = Field(default=(4.0, 10.0), description="cell edges in Å")
    angle: Range = Field(default=(80.0, 110.0), description="cell angles in degrees")
    orthogonal_fraction: float = Field(default=0.4, ge=0, le=1, description="share of cells with three right angles")
    volume_per_atom: Range = Field(default=(11.0, 22.0), description="Å³ an atom")
    max_atoms: int = Field(default=200, ge=1)
    elements: Elements = (
        "Li", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Ti", "V", "Cr", "Mn", "Fe",
        "Co", "Ni", "Cu", "Zn", "As", "Se", "Br", "Sr", "Zr", "Ag", "Sn", "I", "Ba", "Pb",
    )  # fmt: skip
    elements_per_crystal: tuple[int, int] = (1, 4)
    min_distance: Range = Field(default=(1.3, 2.2), description="least distance between atoms in Å, drawn per crystal")
    centrosymmetric_fraction: float = Field(default=0.5, ge=0, le=1)
    u_iso: Range = Field(default=(0.005, 0.04), description="Å²")

    _ranges = field_validator(
        "edge", "angle", "volume_per_atom", "elements_per_crystal", "min_distance", "u_iso"
    )(_from_low_to_high)  # fmt: skip

    @field_validator("edge", "volume_per_atom", "elements_per_crystal")
    @classmethod
    def _above_zero(cls, value: Range) -> Range:
        if value[0] == 0:
            raise ValueError("must be above 0")
        return value

    @field_validator("angle")
    @classmethod
    def _angles_that_close(cls, value: Range) -> Range:
        # three angles of the low end make a cell; nearly flat ones are no use to anyone
        if not (value[0] >= 20 and value[0] <= 119 and value[1] <= 160):
            raise ValueError(f"cell angles must lie from 20° to 160° and begin at 119° at most, not {list(value)}")
        return value


class SymmetricSource(_Section):
    """Artificial crystals in any space group: general and special positions, compositions like inorganic ones."""

    kind: Literal["symmetric"] = "symmetric"
    count: int = Field(default=1000, ge=0)
    space_groups: tuple[Annotated[int, Field(ge=1, le=230)], ...] = Field(default=(), description="numbers; none: all")
    uniform_fraction: float = Field(
        default=0.4, ge=0, le=1, description="all space groups alike; the rest as often as inorganic crystals have them"
    )
    primitive_fraction: float = Field(default=0.5, ge=0, le=1, description="of centred lattices, on primitive axes")
    volume: Range = Field(default=(60.0, 1000.0), description="Å³ of the cell; logarithms are uniform")
    edge: Range = Field(default=(3.0, 14.0), description="Å; kept where volume and axes allow it")
    edge_spread: float = Field(default=0.35, ge=0, le=2, description="standard deviation of the logarithm of an edge")
    min_atoms: int = Field(default=4, ge=1)
    max_atoms: int = Field(default=200, ge=1)
    elements: Elements = (
        "H", "Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Sc", "Ti", "V",
        "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Ru",
        "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Cs", "Ba", "La", "Ce", "Nd", "Gd", "Er", "Yb", "Hf", "Ta",
        "W", "Re", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Th", "U",
    )  # fmt: skip
    elements_per_crystal: tuple[int, int] = (1, 5)
    ionic_fraction: float = Field(default=0.65, ge=0, le=1, description="cations with anions; the rest mostly alloys")
    layered_fraction: float = Field(default=0.15, ge=0, le=1, description="atoms gathered in layers")
    u_iso: Range = Field(default=(0.002, 0.04), description="Å²")

    _ranges = field_validator("volume", "edge", "elements_per_crystal", "u_iso")(_from_low_to_high)

    @model_validator(mode="after")
    def _possible(self) -> SymmetricSource:
        if not (self.volume[0] > 0 and self.edge[0] > 0 and self.elements_per_crystal[0] > 0):
            raise ValueError("volume, edge and elements_per_crystal must be above 0")
        if self.min_atoms > self.max_atoms:
            raise ValueError("min_atoms must not be over max_atoms")
        return self


class MolecularSource(_Section):
    """Artificial molecular crystals with hydrogen; needs RDKit (the extra `molecules`)."""

    kind: Literal["molecular"] = "molecular"
    count: int = Field(default=1000, ge=0)
    space_groups: tuple[Annotated[int, Field(ge=1, le=230)], ...] = Field(
        default=(), description="numbers; none: those that are frequent among molecular crystals"
    )
    primitive_fraction: float = Field(default=0.3, ge=0, le=1, description="of centred lattices, on primitive axes")
    volume: Range = Field(default=(100.0, 1200.0), description="Å³ of the cell; logarithms are uniform")
    heavy_atoms: tuple[int, int] = Field(default=(2, 36), description="of one molecule, hydrogen not counted")
    companion_fraction: float = Field(default=0.2, ge=0, le=1, description="water, an ion or a complex beside")
    complex_fraction: float = Field(default=0.06, ge=0, le=1, description="metal complexes in place of molecules")
    u_iso: Range = Field(default=(0.015, 0.08), description="Å²")

    _ranges = field_validator("volume", "heavy_atoms", "u_iso")(_from_low_to_high)

    @model_validator(mode="after")
    def _possible(self) -> MolecularSource:
        if not (self.volume[0] > 0 and self.heavy_atoms[0] > 0):
            raise ValueError("volume and heavy_atoms must be above 0")
        return self


class _FromFiles(_Section):
    recover_symmetry: bool = Field(default=False, description="spglib finds the space group of cells written in P1")
    symprec: float = Field(default=0.01, gt=0, description="Å, for recover_symmetry")


class CifSource(_FromFiles):
    """CIF files: one file, a folder (searched through), or a tar or zip archive of them; also on s3:// and gs://."""

    kind: Literal["cif"] = "cif"
    path: str
    pattern: str = Field(default="*.cif", description="also takes names that end in .gz, .xz, .bz2 or .zst after it")
    options: StoreOptions = Field(
        default_factory=dict, description="arguments of pyarrow.fs.S3FileSystem or GcsFileSystem"
    )


class TableSource(_FromFiles):
    """Parquet or JSON lines, a crystal a row: one file, or a folder (searched through); also on s3:// and gs://."""

    kind: Literal["table"] = "table"
    path: str
    format: Literal["auto", "cif", "pymatgen", "lemat"] = Field(
        default="auto", description="CIF text, pymatgen's dict, or LeMat-Bulk's columns; auto: told by the columns"
    )
    column: str | None = Field(default=None, description="of the CIF or the dict; default: cif, or structure")
    id_column: str | None = Field(default=None, description="default: material_id, immutable_id or id, else the row")
    pattern: str | None = Field(default=None, description="default: Parquet and JSON lines")
    options: StoreOptions = Field(
        default_factory=dict, description="arguments of pyarrow.fs.S3FileSystem or GcsFileSystem"
    )


class AmcsdSource(_Section):
    """American Mineralogist Crystal Structure Database, the 9,275 minerals inside larixite."""

    kind: Literal["amcsd"] = "amcsd"


class CoreMofSource(_FromFiles):
    """CoRE MOF, the 23,845 computation-ready metal-organic frameworks inside core-mof (CC BY 4.0), written in P1."""

    kind: Literal["core_mof"] = "core_mof"
    subsets: tuple[Literal["2014", "2019-ASR", "2019-FSR"], ...] = Field(
        default=("2014", "2019-ASR", "2019-FSR"), min_length=1
    )


Source = Annotated[
    PrototypesSource
    | SyntheticSource
    | SymmetricSource
    | MolecularSource
    | CifSource
    | TableSource
    | AmcsdSource
    | CoreMofSource,
    Field(discriminator="kind"),
]


class Limits(_Section):
    """What is over a limit is rejected: too_large, or too_slow."""

    max_atoms: int = Field(default=5000, ge=1, description="in the whole cell")
    max_volume: float = Field(default=100_000.0, gt=0, description="Å³")
    max_edge: float = Field(default=1000.0, gt=0, description="Å")
    max_bytes: int = Field(default=20_000_000, ge=1, description="of one CIF")
    max_seconds: float = Field(default=60.0, gt=0, description="reading one CIF")


class SplitConfig(_Section):
    """Shares of validation and test; all crystals of one reduced formula fall in the same split."""

    val: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _leaves_training(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise ValueError("val + test must leave something to train on (< 1)")
        return self


class HoldOut(_Section):
    """A test set: no crystal of training or validation may share a formula or a prototype with it."""

    source: Source
    part: Literal["all", "test"] = Field(default="all", description="test: the crystals whose split is test")


class IngestConfig(_Section):
    sources: tuple[Source, ...] = (PrototypesSource(), SyntheticSource())
    limits: Limits = Limits()
    split: SplitConfig = SplitConfig()
    hold_out: tuple[HoldOut, ...] = Field(
        default=(), description="crystals too near to these test sets are rejected, unless their own split is test"
    )
    duplicates: Literal["mark", "keep"] = Field(
        default="mark", description="mark: of crystals that are one structure the first is used, the others are not"
    )
    rows_per_part: int = Field(default=256, ge=1, description="crystals a catalogue file; the unit of work")


# -- grids -----------------------------------------------------------------------------------


class GenerateConfig(_Section):
    grid: Annotated[GridSpec, Field(discriminator="kind"), _kind_by_default("fixed")] = FixedGrid(32)
    d_min: float = Field(default=1.0, gt=0, description="Å")
    dtype: Literal["float32", "float16"] = Field(
        default="float32", description="of what is stored; float16 comes with a scale a crystal, and loads as float32"
    )
    default_u_iso: float = Field(default=0.02, ge=0, description="Å², for atoms whose displacement is not known")
    max_grid_points: int = Field(default=4_000_000, ge=64, description="crystals that need a larger grid are rejected")
    rows_per_shard: int = Field(default=256, ge=1)


# -- models and training ---------------------------------------------------------------------


class MlpConfig(_Section):
    """Multi-layer perceptron with the defaults of scikit-learn's MLPRegressor. Fixed grids only."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = (100,)


class UNetConfig(_Section):
    """3D U-Net (Çiçek et al. 2016)."""

    kind: Literal["unet"] = "unet"
    width: int = Field(default=16, ge=1, description="channels at full resolution; doubled at each level")
    depth: int = Field(default=3, ge=1, description="levels, the full-resolution one included")
    padding: Literal["periodic", "zero"] = "periodic"
    norm: Literal["group", "batch", "none"] = "group"


class CleanerConfig(_Section):
    """The phasing network: cleans a map of measured amplitudes and wrong phases; see train.phasing."""

    kind: Literal["cleaner"] = "cleaner"
    width: int = Field(default=64, ge=8, multiple_of=8, description="channels on blocks of 2 x 2 x 2 voxels")
    deep_width: int = Field(default=128, ge=8, multiple_of=8, description="channels one level below")
    blocks: tuple[int, int, int] = Field(default=(2, 2, 2), description="residual blocks before, at and after it")
    patterson: bool = Field(default=False, description="also reads the Patterson function laid on the map")
    judges: bool = Field(default=False, description="also tells how well the map given agrees with the truth")


ModelConfig = Annotated[MlpConfig | UNetConfig | CleanerConfig, Field(discriminator="kind"), _kind_by_default("unet")]


class PhasingConfig(_Section):
    """What the phasing network (model.kind: cleaner) is taught: problems drawn anew for every batch."""

    d_min: Range = Field(default=(1.3, 2.1), description="Å, uniform; never beyond what the data set holds")
    points_per_d_min: float = Field(default=2.5, ge=2, description="of the grid")
    extra_b: Range = Field(default=(0.0, 2.0), description="Å², added to the displacements")
    noisy_fraction: float = Field(default=0.3, ge=0, le=1, description="crystals with errors and gaps")
    largest_noise: float = Field(default=0.1, ge=0, description="relative error of an amplitude")
    largest_gap: float = Field(default=0.1, ge=0, lt=1, description="share of reflections missing")
    random_fraction: float = Field(default=0.5, ge=0, le=1, description="starts from wholly random phases")
    visits: int = Field(
        default=6, ge=1, description="steps that learn from one batch of problems, each from where its iteration stands"
    )
    forgetting: float = Field(
        default=0.1, ge=0, le=1, description="steps in which the network is not told what it made of the map before"
    )
    through: int = Field(
        default=0,
        ge=0,
        le=3,
        description="projections that gradients go through: a step learns from so many cycles more",
    )
    pool: int = Field(default=12, ge=1, description="batches of problems whose iterations are under way at a time")
    relax: tuple[Annotated[float, Field(ge=0, lt=2)], ...] = Field(
        default=(0.0, 0.5, 0.7, 0.9), min_length=1, description="over-relaxation of the iteration; one is drawn a batch"
    )
    judging: float = Field(default=0.5, ge=0, description="weight of the error in judging, for a network that judges")
    resident: bool = Field(
        default=False,
        description="all crystals stay on the device; batches of all that need the same grid at the resolution drawn "
        "(train.batch_voxels counts there), axes permuted. Wants train.steps_per_epoch",
    )
    favour: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="resident crystals that come up so many times as often as others, by the beginning of their ids",
    )


class TrainConfig(_Section):
    model: ModelConfig = UNetConfig()
    input: Literal["intensities", "amplitudes", "patterson", "zero_phase", "intensities_over_max"] = "intensities"
    target: Literal["sigma", "maximum", "absolute"] = Field(
        default="sigma",
        description="densities in units of their rms deviation, which amplitudes give; of their own maximum, which "
        "nothing measured gives (the poster's); or e/Å³",
    )
    loss: Literal["mse", "mse_any_origin"] = "mse"
    phasing: PhasingConfig = PhasingConfig()
    start_from: str | None = Field(
        default=None, description='a checkpoint whose weights training begins with; "shipped": those of the package'
    )
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    l2: float = Field(
        default=0.0, ge=0, description="scikit-learn's alpha: l2 / (2 · batch) · |W|² is added to the loss"
    )
    gradient_clip: float | None = Field(default=None, gt=0, description="greatest norm of the gradient of a step")
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="decay of the running mean of the weights, which is then what is used"
    )
    schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        default="constant", description="of the learning rate, over all steps of `epochs`"
    )
    warmup_steps: int = Field(default=0, ge=0, description="of rising learning rate; one_cycle: 0 is 30 % of all steps")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="bfloat16: autocast")
    compile: bool = Field(default=False, description="torch.compile; wants a C++ compiler")
    batch_size: int = Field(default=8, ge=1, description="crystals a worker and batch")
    batch_voxels: int | None = Field(
        default=None, ge=1, description="grid points a worker and batch, in place of batch_size; one crystal at least"
    )
    accumulate: int = Field(default=1, ge=1, description="batches whose gradients make one step")
    epochs: int = Field(default=5, ge=1)
    steps_per_epoch: int | None = Field(
        default=None, ge=1, description="what is called an epoch, in place of one pass over the data"
    )
    max_minutes: float | None = Field(default=None, gt=0, description="no new epoch is begun after this time")
    early_stopping: int | None = Field(default=None, ge=1, description="epochs without a better one before the end")
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop", description="a loss or gradient that is not finite ends the training, or its step is left out"
    )
    max_nonfinite: int = Field(default=10, ge=1, description="steps left out in a row before the training ends")
    checkpoint_every_steps: int | None = Field(default=None, ge=1, description="within an epoch; default: at its end")
    keep_best: int = Field(default=1, ge=1, description="checkpoints of the best epochs that stay, beside the last")
    workers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        default=1, description="a number, or [min, max]: as many as the cluster has room for"
    )
    use_gpu: bool = False
    threads_per_worker: int | None = Field(default=None, ge=1, description="default: the cores shared out")
    max_failures: int = Field(default=1, ge=0, description="restarts from the last checkpoint")
    seed: int | None = Field(default=None, description="default: the run's seed")

    @field_validator("workers")
    @classmethod
    def _from_few_to_many(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError(f"must be a number or [min, max], not {list(value)}")
        return value

    @model_validator(mode="after")
    def _resident(self) -> TrainConfig:
        if self.phasing.resident and (self.steps_per_epoch is None or self.batch_voxels is None):
            raise ValueError("phasing.resident wants steps_per_epoch and batch_voxels: there is no pass over the data")
        return self

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]


# -- searches --------------------------------------------------------------------------------


class Choice(_Section):
    """One of some values, none nearer to another; short: a list."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=1)

    @property
    def extremes(self) -> tuple[Any, ...]:
        return self.values

    def holds(self, value: Any) -> bool:
        return json.dumps(value) in [json.dumps(v) for v in self.values]


class _Interval(_Section):
    low: float
    high: float

    @model_validator(mode="after")
    def _from_low_to_high(self) -> _Interval:
        if not self.low < self.high or (getattr(self, "kind", "") == "loguniform" and self.low <= 0):
            raise ValueError(f"goes from low to a higher high, above 0 if logarithmic; not {[self.low, self.high]}")
        return self

    @property
    def extremes(self) -> tuple[Any, ...]:
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


class Uniform(_Interval):
    """A number; short: {uniform: [low, high]}."""

    kind: Literal["uniform"] = "uniform"


class LogUniform(_Interval):
    """A number whose logarithm is uniform; short: {loguniform: [low, high]}."""

    kind: Literal["loguniform"] = "loguniform"


class RandInt(_Interval):
    """A whole number, both ends included; short: {randint: [low, high]}."""

    kind: Literal["randint"] = "randint"
    low: int
    high: int


def _written_short(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {"kind": "choice", "values": value}
    if isinstance(value, dict) and len(value) == 1:
        ((kind, span),) = value.items()
        if kind == "choice":
            return {"kind": kind, "values": span}
        if kind in {"uniform", "loguniform", "randint"} and isinstance(span, list | tuple) and len(span) == 2:
            return {"kind": kind, "low": span[0], "high": span[1]}
    return value


Domain = Annotated[
    Choice | Uniform | LogUniform | RandInt, Field(discriminator="kind"), BeforeValidator(_written_short)
]


class SearchSpace(_Section):
    """A training, and what of it is searched: dotted keys of it to domains."""

    train: TrainConfig = TrainConfig()
    search: dict[str, Domain] = Field(default_factory=dict, description="learning_rate: {loguniform: [1.0e-4, 0.01]}")

    @model_validator(mode="after")
    def _every_corner_is_a_training(self) -> SearchSpace:
        for key, domain in self.search.items():
            for value in domain.extremes:
                try:
                    self.with_values({key: value})
                except ValidationError as error:
                    raise ValueError(f"search.{key} = {value}: {error.errors()[0]['msg']}") from error
                except KeyError as error:
                    raise ValueError(f"search.{key} is no key of a training of a {self.train.model.kind}") from error
        return self

    def with_values(self, values: dict[str, Any]) -> TrainConfig:
        """The training with these keys changed. KeyError for a key that it does not have."""
        content = self.train.model_dump(mode="json")
        for key, value in values.items():
            *path, last = key.split(".")
            inner = content
            for name in path:
                inner = inner[name]
                if not isinstance(inner, dict):
                    raise KeyError(key)
            if last not in inner:
                raise KeyError(key)
            inner[last] = value
        return TrainConfig.model_validate(content)

    def values(self) -> dict[str, Any]:
        """What the training itself has under the searched keys."""
        found = {}
        for key in self.search:
            inner: Any = self.train.model_dump(mode="json")
            for name in key.split("."):
                inner = inner[name]
            found[key] = inner
        return found


def _default_spaces() -> dict[str, SearchSpace]:
    return {
        "unet": SearchSpace(
            search={
                "model.depth": Choice(values=(2, 3)),
                "model.width": Choice(values=(8, 16)),
                "learning_rate": LogUniform(low=3e-4, high=1e-2),
            }
        )
    }


class TuneConfig(_Section):
    """A search over trainings of one or several networks, on Ray Tune."""

    spaces: dict[str, SearchSpace] = Field(default_factory=_default_spaces, min_length=1)
    trials: int = Field(default=12, ge=1)
    max_minutes: float | None = Field(default=None, gt=0, description="no trial goes on after this time")
    search: Literal["tpe", "random"] = Field(default="tpe", description="tpe: Optuna's")
    scheduler: Literal["asha", "pbt", "none"] = Field(
        default="asha", description="asha stops poor trials early; pbt (random start) has them go on from better ones"
    )
    metric: Literal["map_cc", "loss"] = Field(
        default="map_cc", description="of validation crystals; losses compare only where all trials have the same one"
    )
    first_the_base: bool = Field(default=True, description="the first trial of each space is its `train` unchanged")
    val_crystals: int = Field(default=64, ge=1, description="at most, for map_cc")
    grace: float = Field(default=0.25, gt=0, le=1, description="share of its epochs that asha leaves every trial")
    reduction_factor: float = Field(default=3, gt=1, description="of asha: one in so many goes on")
    perturbation_epochs: int = Field(default=2, ge=1, description="of pbt")
    cpus_per_trial: float = Field(default=1.0, gt=0)
    gpus_per_trial: float = Field(default=0.0, ge=0)
    max_concurrent: int | None = Field(default=None, ge=1, description="default: the cores over cpus_per_trial")
    seed: int | None = Field(default=None, description="default: the run's seed")

    @model_validator(mode="after")
    def _comparable(self) -> TuneConfig:
        if self.metric == "loss":
            losses = {space.train.loss for space in self.spaces.values()}
            if len(losses) > 1 or any("loss" in space.search for space in self.spaces.values()):
                raise ValueError("trials with several losses cannot be ranked by loss: set tune.metric to map_cc")
        if self.first_the_base:
            for name, space in self.spaces.items():
                for key, value in space.values().items():
                    if not space.search[key].holds(value):
                        raise ValueError(
                            f"spaces.{name}.train has {key} = {value}, which spaces.{name}.search.{key} does not "
                            "hold: widen it, change train, or set first_the_base to false"
                        )
        if self.scheduler == "pbt" and self.search == "tpe" and "search" in self.model_fields_set:
            raise ValueError("pbt begins with random trials: set search to random")
        several = [n for n, s in self.spaces.items() if s.train.workers != 1 or "workers" in s.search]
        if self.scheduler == "pbt" and several:
            raise ValueError(f"pbt moves trainings of one worker only, and spaces.{several[0]} has several: take asha")
        return self


class PosterConfig(_Section):
    """The poster's experiment, and the same with one thing changed at a time.

    All trainings take equally many steps (`epochs` times `steps_per_epoch`), so that more crystals are not more
    training. Without more words a variant is trained on the largest of `structures`.
    """

    structures: tuple[int, ...] = Field(default=(26, 54), min_length=1, description="crystals to train on")
    source: str = Field(default="aflow/", description="beginning of the ids of those crystals, and of the judged ones")
    models: dict[str, TrainConfig] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="name to dotted keys of the training; structures: all for more data"
    )
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)

    @model_validator(mode="after")
    def _every_variant_is_a_training(self) -> PosterConfig:
        for name, changed in self.variants.items():
            for model, base in self.models.items():
                values = {key: value for key, value in changed.items() if key != "structures"}
                try:
                    SearchSpace(train=base).with_values(values)
                except (ValidationError, KeyError) as error:
                    raise ValueError(f"variants.{name} of {model}: {error}") from error
        return self


class EvaluateConfig(_Section):
    split: Literal["train", "val", "test"] = "test"
    max_crystals: int | None = Field(default=None, ge=1)
    examples: int = Field(default=4, ge=1, description="crystals drawn in the report")


class RayConfig(_Section):
    address: str | None = Field(default=None, description="None: the cluster this runs in, else a private local one")
    num_cpus: int | None = Field(
        default=None, ge=1, description="logical CPUs of a private cluster; default max(4, cores)"
    )
    actors: int | None = Field(default=None, ge=1, description="of the computing stages; default: one a CPU")
    gpus_per_actor: float = Field(
        default=0, ge=0, description="of generate: with a share of a GPU its actors compute on CuPy, in batches"
    )


class TrackingConfig(_Section):
    uri: str | None = Field(default=None, description="sqlite:///…, http(s)://…; default: sqlite in the output folder")
    experiment: str = "phaseray"

    @field_validator("uri")
    @classmethod
    def _known_kind_without_password(cls, value: str | None) -> str | None:
        if value is not None:
            if not value.startswith(("sqlite:///", "http://", "https://")):
                raise ValueError("must begin with sqlite:///, http:// or https://")
            if "@" in value and not value.startswith("sqlite:///"):
                raise ValueError(
                    "must not hold a password, for it is written beside every output: set MLFLOW_TRACKING_USERNAME "
                    "and MLFLOW_TRACKING_PASSWORD"
                )
        return value


class PipelineConfig(_Section):
    """What `pipeline` does beside ingest, generate, train and evaluate."""

    tune: bool = Field(
        default=False, description="search over `tune` first, and train what it finds best in place of `train`"
    )


class SolveConfig(_Section):
    """What `solve` is told beside the file of reflections; what is not given is looked for in the files."""

    method: Literal["auto", "network", "hybrid", "charge_flipping", "rrr", "zero"] = Field(
        default="auto", description="auto: hybrid for data to 1.25 Å and better, else network"
    )
    cell: tuple[float, float, float, float, float, float] | None = Field(
        default=None, description="a, b, c in Å, α, β, γ in degrees"
    )
    space_group: str | None = Field(default=None, description="symbol or number")
    formula: str | None = Field(default=None, description='such as "C6 H12 O6"; "none": leave out that of the files')
    values: Literal["F", "F2"] | None = Field(
        default=None, description="what a SHELX .hkl file holds; else as its .ins says, or F2"
    )
    d_min: float | None = Field(default=None, gt=0, description="Å; default: that of the data, at best 0.9 Å")
    starts: int | None = Field(default=None, ge=1, description="random beginnings; default: what suits the method")
    time_limit: float = Field(
        default=60.0, ge=0, description="seconds for the phases; 0: none, and then the same seed gives the same map"
    )
    device: str = Field(default="cpu", description="of torch: cpu, cuda, …")


class Config(_Section):
    """One run."""

    seed: int = Field(default=0, ge=0)
    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()
    ingest: IngestConfig = IngestConfig()
    generate: GenerateConfig = GenerateConfig()
    train: TrainConfig = TrainConfig()
    models: dict[str, TrainConfig] = Field(default_factory=dict, description="named trainings, for `demo`")
    tune: TuneConfig = TuneConfig()
    poster: PosterConfig = PosterConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    pipeline: PipelineConfig = PipelineConfig()
    solve: SolveConfig = SolveConfig()


# -- files -----------------------------------------------------------------------------------

_Model = TypeVar("_Model", bound=BaseModel)


def load(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    model: type[_Model] = Config,  # type: ignore[assignment]
    given: Mapping[str, Any] | None = None,
) -> _Model:
    """Read a YAML file (None: all defaults), apply dotted overrides (`generate.d_min=1.5`), validate.

    `given` are values of keys of one section, or of none, that are no text to be parsed ("NO" is nitric oxide, and to
    YAML a no): {"solve.formula": "NO"}.

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
        _apply(data, override, model)
    for key, value in (given or {}).items():
        section, _, last = key.rpartition(".")
        if section and not isinstance(data.setdefault(section, {}), dict):
            raise ConfigError(f"{section} must hold keys and values")
        (data[section] if section else data)[last] = value
    try:
        return model.model_validate(data)
    except ValidationError as error:
        where = str(path) if path is not None else "the configuration"
        lines = [f"  {'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join([f"{where} cannot be used:", *lines])) from error


def shipped(name: str) -> Path:
    """The path of a configuration that comes with the package, such as "demo"."""
    return Path(__file__).with_name("configs") / f"{name}.yaml"


def _apply(data: dict[str, Any], override: str, model: type[BaseModel]) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"an override reads key=value, not {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML") from error
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    keys = path.split(".")
    inner: Any = data
    for i, key in enumerate(keys):
        at: Any = key
        if isinstance(inner, list):
            if not (key.isdigit() and int(key) < len(inner)):
                raise ConfigError(f"override {override!r}: {'.'.join(keys[:i])} has {len(inner)} items, no {key!r}")
            at = int(key)
        elif not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(keys[:i])} holds no keys")
        if i == len(keys) - 1:
            inner[at] = value
        elif isinstance(inner, dict) and inner.get(at) is None:
            # items of a list are reached one by one, so the default list has to be there
            inner[at] = _default(model, keys[: i + 1]) if keys[i + 1].isdigit() else {}
        if i < len(keys) - 1:
            inner = inner[at]


def _default(model: type[BaseModel], keys: Sequence[str]) -> Any:
    value: Any = model().model_dump(mode="json")
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return {} if value is None else value


def to_yaml(config: BaseModel) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def digest(*parts: Any) -> str:
    """16 hex digits that name a configuration: SHA-256 of its canonical JSON."""
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
