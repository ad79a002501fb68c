"""The verdict on the chosen map: what another way has led to counts, what was made of the same start does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phaseray.phasing import verdict
from phaseray.phasing.problem import Starts

# two starts of the network, atoms in the first's map and in the second's, and a guess made of none
PROBABILITY = np.array([0.7, 0.4, 0.9, 0.5, 0.3])


def found(*, made_by=(("network", 2), ("atoms", 2), ("guesses", 1))) -> Starts:
    return Starts(torch.ones(5, 1, 1, 1), parent=np.array([0, 1, 0, 1, -1]), made_by=made_by)


@pytest.mark.parametrize(
    ("alike", "supported", "contradicted"),
    [
        # the map that the atoms were found in neither confirms nor contradicts them, however like it is
        ([1.0, 0.1, 1.0, 0.1, 0.1], 0.0, 0.5),
        ([0.1, 0.1, 1.0, 0.1, 0.1], 0.0, 0.5),
        ([1.0, 0.9, 1.0, 0.1, 0.1], 0.4, 0.5),
        # the same maker is no other way
        ([1.0, 0.1, 1.0, 0.9, 0.1], 0.0, 0.4),
        ([1.0, 0.9, 1.0, 0.9, 0.9], 0.4, 0.0),
    ],
)
def test_what_confirms_and_what_contradicts(alike, supported, contradicted):
    told = verdict.features(found(), PROBABILITY, np.array(alike), 2)
    assert told["own"] == pytest.approx(np.log(9))
    assert (told["supported"], told["contradicted"]) == (supported, contradicted)


def test_a_probability_of_one_is_not_infinite():
    assert np.isfinite(verdict.features(found(), np.ones(5), np.ones(5), 2)["own"])


def test_more_is_said_of_what_is_confirmed_and_less_of_what_is_contradicted():
    def said(alike: list[float]) -> float:
        p, table = verdict.verdict(found(), PROBABILITY, torch.tensor(alike), 2)
        assert set(table) == {"own", "supported", "contradicted"}
        assert 0 < p < 1
        return p

    contradicted = said([1.0, 0.1, 1.0, 0.1, 0.1])
    assert contradicted < said([1.0, 0.1, 1.0, 0.9, 0.9]) < said([1.0, 0.9, 1.0, 0.9, 0.9])
    # one of many, chosen because it says most, is right less often than it says
    assert contradicted < 0.9


@pytest.mark.parametrize("made_by", [(), (("charge_flipping", 5),)])
def test_what_it_was_not_made_for_keeps_its_own_probability(made_by):
    assert verdict.verdict(found(made_by=made_by), PROBABILITY, torch.ones(5), 2) == (0.9, {})
