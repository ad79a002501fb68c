"""Spaces, points and what is drawn from them."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
import yaml

from phaseray.config import ConfigError, SearchSpace, TuneConfig, UNetConfig, load, to_yaml
from phaseray.tuning.figures import importance_figure, importances, parallel_figure
from phaseray.tuning.schedulers import Explore
from phaseray.tuning.space import Suggest, base_points, is_base, random_points, training, trial_name

CONFIG = TuneConfig.model_validate(
    yaml.safe_load("""
trials: 30
spaces:
  unet:
    train: {model: {kind: unet, depth: 2}}
    search:
      model.depth: [2, 3]
      learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
      batch_size: {randint: [4, 9]}
  mlp:
    train: {model: {kind: mlp}}
    search:
      model.hidden: [[100], [50, 50]]
      l2: {uniform: [0, 1]}
""")
)


def test_points_are_trainings_within_their_space():
    points = random_points(CONFIG, seed=1)
    assert len(points) == 30
    for point in points:
        config = training(CONFIG, point)
        assert config.model.kind == point["space"]
        if isinstance(config.model, UNetConfig):
            assert config.model.depth in (2, 3)
            assert 1e-4 <= config.learning_rate <= 1e-2
            assert 4 <= config.batch_size <= 9
        else:
            assert config.model.hidden in ((100,), (50, 50))
    assert {point["space"] for point in points} == {"unet", "mlp"}


def test_the_base_of_each_space_comes_first_and_the_seed_decides_the_rest():
    points = random_points(CONFIG, seed=1)
    assert [is_base(CONFIG, p) for p in points[:3]] == [True, True, False]
    assert training(CONFIG, points[0]) == CONFIG.spaces["unet"].train
    assert points == random_points(CONFIG, seed=1)
    assert points != random_points(CONFIG, seed=2)
    without = CONFIG.model_copy(update={"first_the_base": False})
    assert not any(is_base(without, p) for p in random_points(without, seed=1)[:3])


def test_optuna_is_asked_for_the_keys_of_the_space_alone():
    study = optuna.create_study()
    for point in base_points(CONFIG):
        study.enqueue_trial(point)
        trial = study.ask()
        Suggest(CONFIG)(trial)
        assert trial.params == point


def test_a_name_says_what_varied():
    point = {"space": "unet", "unet": {"model.depth": 3, "learning_rate": 0.00123, "batch_size": 8}}
    assert trial_name(CONFIG, point) == "unet depth=3 learning_rate=1.2e-3 batch_size=8"
    assert trial_name(CONFIG, {"space": "mlp", "mlp": {"model.hidden": "[50, 50]", "l2": 0.5}}) == (
        "mlp hidden=[50,50] l2=0.5"
    )


def test_a_trial_that_is_taken_over_stays_in_its_space():
    explore = Explore(CONFIG, seed=0)
    before = {"point": {"space": "unet", "unet": {"model.depth": 3, "learning_rate": 9e-3, "batch_size": 8}}}
    for _ in range(20):
        after = explore(before)["point"]["unet"]
        assert after["learning_rate"] in (pytest.approx(7.2e-3), 1e-2)
        assert (after["model.depth"], after["batch_size"]) == (3, 8)
    assert before["point"]["unet"]["learning_rate"] == 9e-3


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("learning_rat: [1]", "no key"),
        ("learning_rate: [0.001, -1]", "greater than 0"),
        ("model.hidden: [[10]]", "no key"),
        ("learning_rate: {loguniform: [0, 1]}", "above 0"),
        ("learning_rate: {uniform: [0.5, 1]}", "learning_rate = 0.001"),
    ],
)
def test_what_cannot_be_searched_is_said_at_once(search: str, said: str):
    with pytest.raises(ConfigError, match=said):
        load(None, [f"tune.spaces={{unet: {{search: {{{search}}}}}}}"])


def test_trials_of_several_losses_are_not_ranked_by_loss():
    with pytest.raises(ConfigError, match="map_cc"):
        load(None, ["tune.spaces={unet: {search: {loss: [mse, mse_any_origin]}}}", "tune.metric=loss"])


def test_trials_of_several_workers_are_no_population():
    with pytest.raises(ConfigError, match="one worker only"):
        load(None, ["tune.spaces={unet: {train: {workers: 2}}}", "tune.search=random", "tune.scheduler=pbt"])


def test_spaces_come_back_from_their_yaml():
    assert TuneConfig.model_validate(yaml.safe_load(to_yaml(CONFIG))) == CONFIG
    assert SearchSpace().values() == {}


def _trials() -> list[dict]:
    """The learning rate decides, the rest does not matter."""
    found = []
    for point in random_points(CONFIG, seed=0):
        values = point[point["space"]]
        score = 1 - abs(np.log10(values["learning_rate"]) + 3) / 2 if "learning_rate" in values else 0.1
        found.append({"space": point["space"], "values": values, "score": score, "base": is_base(CONFIG, point)})
    return found


def test_importance_goes_to_what_mattered():
    shares = importances(CONFIG, _trials())
    assert list(shares) == ["unet"]  # all of the MLP's scores are equal
    assert max(shares["unet"], key=shares["unet"].__getitem__) == "learning_rate"
    assert sum(shares["unet"].values()) == pytest.approx(1)


def test_figures_have_a_panel_a_space():
    parallel = parallel_figure(CONFIG, _trials())
    assert parallel is not None
    assert len(parallel.axes) == 3  # and the colour bar
    bars = importance_figure(CONFIG, _trials())
    assert bars is not None
    assert importance_figure(CONFIG, _trials()[:3]) is None
