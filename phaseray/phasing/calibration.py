"""From features without the truth to a probability: logistic regression, its coefficients in a JSON file.

`benchmarks/calibrate_phasing.py` makes the files that ship, in `calibrations/`, and writes into them how.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FOLDER = Path(__file__).parent / "calibrations"
_LARGEST = 5.0  # of a standardised feature: what lies further out was not in the calibration


@dataclass(frozen=True)
class Calibration:
    """p = 1 / (1 + exp(-(intercept + Σ c (x - mean) / scale))).

    Attributes
    ----------
    names : features, or products of them such as "d_min*residual"
    mean, scale, coefficients : as many numbers each
    made : how: crystals, settings, how well it does
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    made: Mapping[str, Any]

    def probability(self, features: Mapping[str, ArrayLike]) -> Floats:
        """(S,) in (0, 1); features are (S,) arrays, or numbers that hold for all starts."""
        z = (columns(features, self.names) - self.mean) / self.scale
        logit = np.clip(z, -_LARGEST, _LARGEST) @ np.array(self.coefficients) + self.intercept
        p: Floats = 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
        return p

    def write(self, path: Path) -> None:
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        aside.replace(path)


@cache
def load(name: str) -> Calibration:
    """One of the calibrations in the package, or of a path to a JSON file."""
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json")))
        raise ValueError(f"there is no calibration {name!r}; the package has: {known}") from None
    lists = {key: tuple(found[key]) for key in ("names", "mean", "scale", "coefficients")}
    return Calibration(intercept=float(found["intercept"]), made=found["made"], **lists)


def columns(features: Mapping[str, ArrayLike], names: Sequence[str]) -> Floats:
    """(S, len(names)) of the features named, products multiplied out."""
    wanted = {part for name in names for part in name.split("*")}
    missing = sorted(wanted - set(features))
    if missing:
        raise ValueError(f"the calibration needs the features {', '.join(missing)}; there are: {', '.join(features)}")
    parts = dict(zip(sorted(wanted), np.broadcast_arrays(*(features[n] for n in sorted(wanted))), strict=True))
    table = [np.prod([parts[part] for part in name.split("*")], axis=0) for name in names]
    return np.stack([np.atleast_1d(column).astype(float) for column in table], -1)


def fit(
    features: Mapping[str, ArrayLike],
    right: ArrayLike,
    names: Sequence[str],
    *,
    weight: ArrayLike | None = None,
    ridge: float = 1.0,
    made: Mapping[str, Any] | None = None,
) -> Calibration:
    """Maximum likelihood with a ridge on the standardised coefficients, by Newton's method.

    Parameters
    ----------
    features : name → (m,)
    right : (m,) bool
    weight : (m,), optional
        Of the rows; starts of one crystal are not independent, so a row may count for less than one.
    """
    x = columns(features, names)
    y = np.asarray(right, float)
    w = np.ones(len(y)) if weight is None else np.asarray(weight, float)
    if len(x) != len(y) or y.min() == y.max():
        raise ValueError("a calibration needs as many labels as rows, right and wrong ones among them")
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-9)
    z = np.hstack([np.clip((x - mean) / scale, -_LARGEST, _LARGEST), np.ones((len(x), 1))])
    penalty = np.append(np.full(len(names), ridge), 0.0)
    beta = np.zeros(z.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(z @ beta, -30, 30)))
        gradient = z.T @ (w * (y - p)) - penalty * beta
        step = np.linalg.solve((z.T * (w * p * (1 - p))) @ z + np.diag(penalty + 1e-9), gradient)
        beta = beta + step * min(1.0, 2.0 / max(float(abs(step).max()), 1e-12))
        if abs(step).max() < 1e-8:
            break
    return Calibration(
        tuple(names), tuple(mean.tolist()), tuple(scale.tolist()), tuple(beta[:-1].tolist()), float(beta[-1]),
        dict(made or {}),
    )  # fmt: skip
