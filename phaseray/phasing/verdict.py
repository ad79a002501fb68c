"""How far to trust the map that was chosen: its own probability, and what else was found beside it.

The probability of a start is that of one among many. The most probable of them is right less often than it says, the
more so the less it says; and it is right more often where another way has led to the same map, less where one has led
to another. `Solution.probability` takes all of this in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from phaseray.phasing import calibration, scoring
from phaseray.phasing.completion import METHOD as ATOMS
from phaseray.phasing.placing import FORMULA, GUESSES
from phaseray.phasing.problem import Starts

CHOSEN = "chosen"
"""The calibration."""
_OF = ("network", ATOMS, FORMULA, GUESSES)  # the makers it is for
_SURE = 1e-6


def features(
    found: Starts, probability: NDArray[np.float64], alike: NDArray[np.float64], best: int
) -> dict[str, float]:
    """Of the chosen one among `found`; `alike` (S,) are the correlations of its map with all.

    own
        The log-odds of its own probability.
    supported
        The largest probability of those that another maker has led to, from another start, and that are the same map.
    contradicted
        The largest probability of those of other starts, of whatever maker, that are another map.
    """
    every = np.arange(len(found))
    family = np.where(found.parents < 0, every, found.parents)
    others = family != family[best]
    makers = found.makers
    same = alike >= scoring.SAME_MAP
    p = float(probability[best].clip(_SURE, 1 - _SURE))
    return {
        "own": float(np.log(p / (1 - p))),
        "supported": float(probability[others & same & (makers != makers[best])].max(initial=0.0)),
        "contradicted": float(probability[others & ~same].max(initial=0.0)),
    }


def verdict(
    found: Starts, probability: NDArray[np.float64], alike: Tensor, best: int
) -> tuple[float, dict[str, float]]:
    """The probability that the chosen map is right, and what of it is not the map's own.

    Of makers for which there is no such calibration it is that of the start.
    """
    if not found.made_by or found.makers[best] not in _OF:
        return float(probability[best]), {}
    table = features(found, probability, alike.double().cpu().numpy(), best)
    known = {name: np.array([value]) for name, value in table.items()}
    return float(calibration.load(CHOSEN).probability(known)[0]), table
