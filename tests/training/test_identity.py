"""What makes a training another than the one that its folder holds; no Ray here."""

import json

import pytest
import yaml

from phaseray.config import ConfigError, TrainConfig, UNetConfig
from phaseray.training.identity import enter

CONFIG = TrainConfig(epochs=3)
COSINE = TrainConfig(epochs=3, schedule="cosine")


def again(folder, config, *, first=CONFIG, seed=0, digest="d" * 16):
    enter(folder, first, "d" * 16, 0, "first")
    return enter(folder, config, digest, seed, "second")


def changed(config=CONFIG, **options):
    return TrainConfig.model_validate({**config.model_dump(mode="json"), **options})


def test_the_same_training_keeps_its_name_and_key(tmp_path):
    before, _ = enter(tmp_path, CONFIG, "d" * 16, 0, "first")
    assert enter(tmp_path, CONFIG, "d" * 16, 0, "second") == (before, [])
    assert before.name == "first"


@pytest.mark.parametrize("options", [{"epochs": 5}, {"workers": 2}, {"workers": [1, 2]}, {"max_minutes": 3.0}])
def test_how_long_and_where_may_change_and_is_said(tmp_path, options):
    _, lines = again(tmp_path, changed(**options))
    ((key, value),) = options.items()
    assert [line for line in lines if line.startswith(f"train.{key} was ") and str(value)[-2:] in line] == lines
    assert len(lines) == 1


def test_a_seed_in_the_config_is_the_seed_of_the_run(tmp_path):
    assert again(tmp_path, changed(seed=0))[1] == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (changed(learning_rate=0.01), r"train\.learning_rate: 0\.001 there, 0\.01 now"),
        (changed(model=UNetConfig(width=4).model_dump()), r"train\.model\.width: 16 there, 4 now"),
        (changed(gradient_clip=1.0), r"train\.gradient_clip: none there, 1\.0 now"),
        (changed(model={"kind": "mlp"}), r"train\.model\.width: 16 there, none now"),
    ],
)
def test_another_training_is_refused_and_what_differs_is_named(tmp_path, config, says):
    with pytest.raises(ConfigError, match=says) as error:
        again(tmp_path, config)
    assert "Choose another --out" in str(error.value)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG.model_dump(mode="json")


@pytest.mark.parametrize(
    ("options", "says"), [({"seed": 1}, "the seed: 0 there, 1 now"), ({"digest": "e"}, "data set")]
)
def test_another_seed_or_data_set_is_refused(tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        again(tmp_path, CONFIG, **options)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_schedule_over_all_epochs_cannot_be_made_longer(tmp_path, schedule):
    first = changed(schedule=schedule)
    with pytest.raises(ConfigError, match=rf"schedule={schedule} the learning rate of every step depends on"):
        again(tmp_path, changed(first, epochs=5), first=first)
    assert again(tmp_path, changed(first, max_minutes=1.0), first=first)[1]


def test_a_folder_of_another_command_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"command": "tune"}))
    with pytest.raises(ConfigError, match="is of `phaseray tune`"):
        enter(tmp_path, CONFIG, "d", 0, "first")


def test_a_folder_from_before_a_key_was_there_is_gone_on_with(tmp_path):
    enter(tmp_path, CONFIG, "d", 0, "first")
    old = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del old["ema"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    assert enter(tmp_path, CONFIG, "d", 0, "first")[1] == []
    with pytest.raises(ConfigError, match=r"train\.ema: none there, 0\.9 now"):
        enter(tmp_path, changed(ema=0.9), "d", 0, "first")
