"""The poster's experiment: which trainings it is made of, and what their table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from phaseray.config import Config, ConfigError, load
from phaseray.diffraction.maps import zero_phase_map
from phaseray.poster import _crystals, _lines, _measured, _trainings, poster
from phaseray.tables import poster_table
from tests.shards import write_shards

CONFIG = load(Path(__file__).parents[1] / "jobs" / "poster.yaml", ["poster.seeds=[0, 1]"])


def test_each_variant_changes_one_thing_and_no_number_of_steps():
    trainings = _trainings(CONFIG.poster)
    assert len({t.name for t in trainings}) == len(trainings) == 2 * 2 * (2 + len(CONFIG.poster.variants))
    for t in trainings:
        base = CONFIG.poster.models[t.model]
        assert (t.config.epochs, t.config.steps_per_epoch) == (base.epochs, base.steps_per_epoch)
        changed = {k for k, v in t.config.model_dump().items() if v != base.model_dump()[k]}
        expected = set(CONFIG.poster.variants.get(t.variant, {})) - {"structures"}
        assert changed <= expected
        assert (t.structures is None) == ("structures" in CONFIG.poster.variants.get(t.variant, {}))


def test_a_variant_that_is_no_training_is_said_at_once():
    with pytest.raises(ConfigError, match="slower"):
        load(None, ["poster.models={unet: {}}", "poster.variants={slower: {learning_rat: 1}}"])


def test_the_truth_and_zero_phases_measure_as_they_must(tmp_path: Path):
    shards = write_shards(tmp_path / "s", {"train": 60, "test": 6})
    known = _crystals(str(shards), CONFIG.poster)
    assert len(known.source) == 60
    truth = _measured([d.astype(float) for d in known.test.density], known.test, 0)
    assert truth["density_ratio"] == pytest.approx(1)
    assert truth["density_ratio_drawn"] == pytest.approx(1)
    assert truth["map_cc"] == pytest.approx(1)
    zero = [
        zero_phase_map(a.astype(float), known.test.shape, float(v))
        for a, v in zip(known.test.amplitude, known.test.volume, strict=True)
    ]
    measured = _measured(zero, known.test, 0)
    assert measured["peak_at_origin"] == 1
    assert measured["inversion_symmetry"] == pytest.approx(1)
    # twice the prediction is twice the density, and the same picture
    twice = _measured([2 * z for z in zero], known.test, 0)
    assert twice["density_ratio"] == pytest.approx(2 * measured["density_ratio"])
    assert twice["density_ratio_drawn"] == pytest.approx(measured["density_ratio_drawn"])


def test_lines_are_means_over_the_seeds_with_their_range():
    common = {"model": "mlp", "variant": "as the poster", "structures": 26}
    (line,) = _lines([{**common, "seed": 0, "map_cc": 0.2, "sameness": None}, {**common, "seed": 1, "map_cc": 0.4}])
    assert line["seeds"] == 2
    assert line["map_cc"] == pytest.approx(0.3)
    assert line["map_cc range"] == [0.2, 0.4]
    table = poster_table({"lines": [line]})
    assert "| mlp | as the poster | 26 | 0.30 (0.20 to 0.40) |" in table


@pytest.mark.parametrize(("structures", "said"), [([26, 500], "has 8"), ([4], "no crystals in the split 'test'")])
def test_too_few_crystals_are_said(tmp_path: Path, structures: list[int], said: str):
    shards = write_shards(tmp_path / "s", {"train": 8, **({"test": 2} if said == "has 8" else {})})
    with pytest.raises(ConfigError, match=said):
        _crystals(str(shards), CONFIG.poster.model_copy(update={"structures": tuple(structures)}))


def test_without_models_there_is_no_experiment(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"poster\.models"):
        poster(Config(), tmp_path)
