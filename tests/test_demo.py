"""demo and evaluate: the whole way on a few crystals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phaseray.comparison import evaluate
from phaseray.config import Config, ConfigError, load, shipped
from phaseray.demo import demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def config() -> Config:
    """The shipped demo, made small."""
    return load(
        shipped("demo"),
        [
            "ingest.sources.1.count=60", "generate.grid.n=12", "generate.d_min=2.4", "models.mlp.epochs=2",
            "models.unet.epochs=1", "models.unet.model.width=2", "models.unet.model.depth=2",
            "models.unet_any_origin.epochs=1", "models.unet_any_origin.model.width=2",
            "models.unet_any_origin.model.depth=2", "evaluate.examples=2",
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(ray_cluster: None, config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "d"
    return out, demo(config, out)


def test_every_model_and_zero_phases_are_scored(run: tuple[Path, dict[str, Any]]) -> None:
    out, summary = run
    assert list(summary["models"]) == ["zero phases", "mlp", "unet", "unet_any_origin"]
    dataset = json.loads((out / "shards" / "dataset.json").read_text())
    for model in summary["models"].values():
        assert model["n"] == dataset["split"]["test"] == summary["n_crystals"]
        assert 0 <= model["mean"]["map_cc"] <= 1
    assert summary["models"]["zero phases"]["mean"]["patterson_cc"] > 0.99
    assert len(json.loads((out / "evaluation" / "scores.json").read_text())) == 4 * summary["n_crystals"]
    assert json.loads((out / "evaluation" / "summary.json").read_text()) == summary


def test_the_report_stands_by_itself_and_names_its_numbers(run: tuple[Path, dict[str, Any]]) -> None:
    out, summary = run
    page = (out / "evaluation" / "report.html").read_text().replace("\xa0", " ")
    assert 'src="http' not in page
    assert summary["dataset_digest"] in page
    for told in summary["observations"].values():
        assert [sentence.split(" (")[0] for sentence in told] == [f"Observation {i}" for i in range(1, 7)]
        for sentence in told:
            words = sentence.split("; ", 1)[1]
            assert words.split(",")[0].split(";")[0] in page
    assert {p.name for p in (out / "evaluation" / "figures").glob("*.png")} == {
        "common_pattern.png", "loss.png", "map_cc.png", "sections_1.png", "sections_2.png",
    }  # fmt: skip


def test_mlflow_holds_a_run_a_model_with_its_scores(run: tuple[Path, dict[str, Any]]) -> None:
    from mlflow import MlflowClient

    out, summary = run
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("phaseray")
    runs = {r.data.tags["name"]: r for r in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"mlp", "unet", "unet_any_origin"}
    for name, found in runs.items():
        assert found.data.metrics["test/map_cc"] == pytest.approx(summary["models"][name]["mean"]["map_cc"])
        assert found.data.tags["dataset_digest"] == summary["dataset_digest"]


def test_evaluate_says_what_is_wrong(run: tuple[Path, dict[str, Any]], config: Config, tmp_path: Path) -> None:
    out, _ = run
    with pytest.raises(ConfigError, match="no trained model"):
        evaluate(config, out / "shards", {"mlp": tmp_path}, tmp_path / "e")
    with pytest.raises(ConfigError, match="no finished shards"):
        evaluate(config, tmp_path, {}, tmp_path / "e")


def test_zero_phases_need_no_model(run: tuple[Path, dict[str, Any]], config: Config, tmp_path: Path) -> None:
    out, _ = run
    few = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"max_crystals": 3})})
    summary = evaluate(few, out / "shards", {}, tmp_path / "e")
    assert summary["n_crystals"] == 3
    assert list(summary["models"]) == ["zero phases"]
