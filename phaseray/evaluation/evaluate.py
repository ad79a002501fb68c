"""Score the predictions of several models on one set of crystals, zero phases always among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseray.crystal import orthogonalization_matrix
from phaseray.diffraction.grid import Shape, half_shape
from phaseray.diffraction.maps import zero_phase_map
from phaseray.evaluation.metrics import (
    correlation_maps,
    half_grid_of,
    independent_reflections,
    map_cc_strict,
    r_factor,
    solved,
    trivial,
)
from phaseray.evaluation.peaks import atoms_found, distinct_sites
from phaseray.evaluation.reciprocal import patterson_cc, phase_error, within_resolution

ZERO_PHASES = "zero phases"


@dataclass(frozen=True, eq=False)
class Sample:
    """One crystal to be judged on.

    Attributes
    ----------
    id, formula : str
    cell : (6,)
        Å and degrees.
    numbers, positions : (n,), (n, 3)
        Atoms of the whole cell, fractional.
    amplitude : (nx, ny, nz//2+1)
        |F| in electrons on the half grid, l ≥ 0; F(000) may be there or 0.
    density : (nx, ny, nz)
        The true map, e/Å³.
    d_min : float
        Å, of the amplitudes.
    space_group : str or None
        Where it is not known, or no symbol that gemmi knows, map_cc_strict is None.
    """

    id: str
    formula: str
    cell: ArrayLike
    numbers: ArrayLike
    positions: ArrayLike
    amplitude: ArrayLike
    density: ArrayLike
    d_min: float
    space_group: str | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.density)
        if len(shape) != 3 or np.shape(self.amplitude) != half_shape(self.shape):
            raise ValueError(
                f"sample {self.id!r}: density of shape {shape} needs a half grid of amplitudes, "
                f"not {np.shape(self.amplitude)}"
            )

    @property
    def shape(self) -> Shape:
        nx, ny, nz = np.shape(self.density)
        return (nx, ny, nz)

    @property
    def volume(self) -> float:
        """Å³."""
        return float(np.linalg.det(orthogonalization_matrix(self.cell)))


@dataclass(frozen=True)
class Score:
    """One model on one crystal, scored as SCIENCE.md defines; None where a score is undefined.

    `finite` is False for a prediction that holds NaN or infinity: it has no scores and is not solved. `mse` is that of
    the maps as they stand, no origin searched, in e²/Å⁶. `r_factor` is of the prediction's own amplitudes.
    """

    id: str
    formula: str
    model: str
    map_cc: float | None
    map_cc_strict: float | None
    phase_error: float | None
    r_factor: float | None
    patterson_cc: float | None
    atoms_found: float | None
    atoms_rms: float | None
    n_sites: int
    mse: float | None
    solved: bool
    trivial: bool
    finite: bool = True


AVERAGED = (
    "map_cc", "map_cc_strict", "phase_error", "r_factor", "patterson_cc", "atoms_found", "atoms_rms", "mse",
)  # fmt: skip


@dataclass(frozen=True)
class ModelSummary:
    """One model on all crystals.

    `mean` and `median` go by the names in AVERAGED, over the crystals for which the score is defined (None: none).
    `mean_nontrivial` leaves out the crystals that zero phases already do; `solved` counts all, `solved_nontrivial`
    only the rest.
    """

    model: str
    n: int
    n_nontrivial: int
    not_finite: int
    solved: int
    solved_nontrivial: int
    mean: Mapping[str, float | None]
    median: Mapping[str, float | None]
    mean_nontrivial: Mapping[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """All scores, and a summary of each model; zero phases come first.

    `n_solvable` counts the crystals whose true map, at its resolution, itself shows 0.8 of the atoms: neighbours
    can be nearer than it tells apart, and light atoms too weak beside heavy ones; then no prediction counts as solved.
    """

    scores: tuple[Score, ...]
    summaries: Mapping[str, ModelSummary]
    n_crystals: int
    n_trivial: int
    n_solvable: int
    zero_phase_maps: Sequence[NDArray[np.float64]] = field(repr=False, default=())

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.summaries)

    def of(self, model: str) -> tuple[Score, ...]:
        """The scores of one model, in the order of the crystals."""
        return tuple(s for s in self.scores if s.model == model)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON: everything but the maps."""
        return {
            "n_crystals": self.n_crystals,
            "n_trivial": self.n_trivial,
            "n_solvable": self.n_solvable,
            "models": {name: asdict(summary) for name, summary in self.summaries.items()},
            "scores": [asdict(s) for s in self.scores],
        }


def evaluate_predictions(
    crystals: Sequence[Sample],
    predictions: Mapping[str, Sequence[ArrayLike]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every model on every crystal.

    Parameters
    ----------
    crystals
        What is to be predicted.
    predictions : model name to one (nx, ny, nz) map a crystal, in e/Å³
        In the order of `crystals`. "zero phases" is computed here, whether given or not.
    progress : optional
        Called with (crystals done, crystals) after each.

    Raises
    ------
    ValueError
        A model with too few or too many maps, or a map of another shape than the truth.
    """
    for name, maps in predictions.items():
        if len(maps) != len(crystals):
            raise ValueError(f"model {name!r} has {len(maps)} predictions for {len(crystals)} crystals")
        for crystal, rho in zip(crystals, maps, strict=True):
            if np.shape(rho) != crystal.shape:
                raise ValueError(f"model {name!r}, crystal {crystal.id!r}: {np.shape(rho)}, expected {crystal.shape}")
    models = [name for name in predictions if name != ZERO_PHASES]
    scores: dict[str, list[Score]] = {name: [] for name in (ZERO_PHASES, *models)}
    zero_maps = []
    n_solvable = 0
    for i, crystal in enumerate(crystals):
        zero_maps.append(zero_phase_map(np.asarray(crystal.amplitude, np.float64), crystal.shape, crystal.volume))
        easy = trivial(float(correlation_maps(zero_maps[-1], crystal.density).max()))
        atoms = (crystal.cell, crystal.positions, crystal.numbers)
        ceiling = atoms_found(crystal.density, crystal.density, *atoms, d_min=crystal.d_min)
        n_solvable += solved(1.0, ceiling.recall)
        for name, rows in scores.items():
            rho = zero_maps[-1] if name == ZERO_PHASES else predictions[name][i]
            rows.append(score(crystal, rho, name, trivial=easy))
        if progress is not None:
            progress(i + 1, len(crystals))
    summaries = {name: summarise(name, rows) for name, rows in scores.items()}
    n_trivial = sum(s.trivial for s in scores[ZERO_PHASES])
    return Evaluation(
        scores=tuple(s for rows in scores.values() for s in rows),
        summaries=summaries,
        n_crystals=len(crystals),
        n_trivial=n_trivial,
        n_solvable=n_solvable,
        zero_phase_maps=tuple(zero_maps),
    )


def score(crystal: Sample, prediction: ArrayLike, model: str, *, trivial: bool) -> Score:
    """One prediction against one crystal; `trivial` says whether zero phases do it already."""
    rho, truth = np.asarray(prediction, np.float64), np.asarray(crystal.density, np.float64)
    if not np.isfinite(rho).all():
        none = dict.fromkeys(AVERAGED)
        n_sites = len(distinct_sites(crystal.cell, crystal.positions, crystal.numbers))
        return Score(
            crystal.id, crystal.formula, model, **none, n_sites=n_sites, solved=False, trivial=trivial, finite=False
        )
    shape = crystal.shape
    F = half_grid_of(rho, crystal.volume)
    used = within_resolution(crystal.cell, shape, crystal.d_min) & independent_reflections(shape)
    f_obs = np.asarray(crystal.amplitude)[used]
    correlations = correlation_maps(rho, truth)
    atoms = (crystal.cell, crystal.positions, crystal.numbers)
    match = atoms_found(rho, truth, *atoms, d_min=crystal.d_min, correlations=correlations)
    cc = float(correlations.max())
    return Score(
        id=crystal.id,
        formula=crystal.formula,
        model=model,
        map_cc=cc,
        map_cc_strict=_strict(rho, truth, crystal.space_group),
        phase_error=phase_error(half_grid_of(truth, crystal.volume), F, shape),
        r_factor=r_factor(f_obs, F[used]) if f_obs.any() else None,
        patterson_cc=patterson_cc(rho, crystal.amplitude, crystal.cell, crystal.d_min),
        atoms_found=match.recall,
        atoms_rms=match.rms,
        n_sites=match.n_atoms,
        mse=float(((rho - truth) ** 2).mean()),
        solved=solved(cc, match.recall),
        trivial=trivial,
    )


def _strict(rho: NDArray[np.float64], truth: NDArray[np.float64], space_group: str | None) -> float | None:
    if not space_group:
        return None
    try:
        return map_cc_strict(rho, truth, space_group)
    except ValueError:
        return None  # a symbol that gemmi does not know


def summarise(model: str, scores: Sequence[Score]) -> ModelSummary:
    """Means, medians and counts of one model's scores."""
    hard = [s for s in scores if not s.trivial]

    def over(rows: Sequence[Score], average: Callable[[list[float]], Any]) -> dict[str, float | None]:
        known = {name: [v for s in rows if (v := getattr(s, name)) is not None] for name in AVERAGED}
        return {name: float(average(values)) if values else None for name, values in known.items()}

    return ModelSummary(
        model=model,
        n=len(scores),
        n_nontrivial=len(hard),
        not_finite=sum(not s.finite for s in scores),
        solved=sum(s.solved for s in scores),
        solved_nontrivial=sum(s.solved for s in hard),
        mean=over(scores, np.mean),
        median=over(scores, np.median),
        mean_nontrivial=over(hard, np.mean),
    )
