"""What a person or a script is told: exit statuses, and the words on stderr."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from phaseray import cli
from phaseray.config import to_yaml

ROOT = Path(__file__).parents[1]
COMMANDS = {command.callback.__name__.replace("_", "-") for command in cli.app.registered_commands if command.callback}


def test_help_comes_within_three_seconds_and_lists_the_commands():
    began = time.monotonic()
    script = Path(sys.executable).with_name("phaseray")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - began
    listed = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed >= COMMANDS
    assert seconds < 3


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]):
    assert cli.run([command, "--help"]) == 0
    assert f"phaseray {command} [OPTIONS]" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["ingest", "generate", "train", "tune", "poster", "evaluate", "pipeline"])
def test_each_command_has_its_job(command: str):
    script = ROOT / "jobs" / f"{command}.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert f"phaseray {command} [OPTIONS]" in done.stdout


def test_without_a_command_there_is_help_and_status_2(capsys: pytest.CaptureFixture[str]):
    assert cli.run([]) == 2
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-command"], "no-such-command"),
        (["generate"], "--catalogue"),
        (["generate", "--catalogue", "c"], "--out"),
        (["generate", "--catalogue", "c", "--out", "o", "--nonsense"], "--nonsense"),
        (["ingest", "--out", "o", "--set", "ingest.colour=red"], "ingest.colour"),
        (["ingest", "--out", "o", "--set", "generate.d_min=-1"], "generate.d_min"),
        (["ingest", "--out", "o", "--set", "generate.d_min"], "key=value"),
        (["ingest", "--out", "o", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["generate", "--catalogue", "nowhere", "--out", "o"], "nowhere holds no finished catalogue"),
        (["train", "--dataset", "nowhere", "--out", "o"], "nowhere holds no finished shards"),
        (["train", "--dataset", "nowhere", "--out", "o", "--name", "best"], "models.best"),
        (["evaluate", "--dataset", "nowhere", "--out", "o"], "nowhere holds no finished shards"),
        (["evaluate", "--dataset", "nowhere", "--out", "o", "--model", "unet"], "NAME=FOLDER"),
    ],
)  # fmt: skip
def test_bad_usage_is_status_2_and_says_what_is_wrong(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (tmp_path / "o").exists()


def test_a_config_that_is_not_yaml_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tmp_path / "bad.yaml"
    config.write_text("generate: {d_min: 1.0")
    assert cli.run(["ingest", "--out", str(tmp_path / "o"), "--config", str(config)]) == 2
    assert "bad.yaml is not YAML" in capsys.readouterr().err


def test_a_job_must_not_write_where_ray_cleans_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """In a job the current folder is Ray's copy of the working directory, removed when the job is over."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert cli.run(["ingest", "--out", "runs/catalogue"]) == 2
    assert "absolute path" in capsys.readouterr().err


def test_what_fails_at_work_is_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def full(*_: object, **__: object):
        raise OSError("no space left on device")

    monkeypatch.setattr("phaseray.pipeline.catalogue.ingest", full)
    assert cli.run(["ingest", "--out", "o"]) == 1
    assert capsys.readouterr().err == "error: no space left on device\n"


def test_ctrl_c_is_status_1_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr("phaseray.pipeline.catalogue.ingest", interrupted)
    assert cli.run(["ingest", "--out", "o"]) == 1
    assert "goes on where it stopped" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configs_beside_the_jobs_are_valid(path: Path):
    from phaseray.config import load

    assert to_yaml(load(path))
