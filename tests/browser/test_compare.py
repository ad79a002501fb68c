"""What a person sees of a finished sweep in MLflow, in a real browser.

The screenshots stay in PHASERAY_SCREENSHOTS (default: runs/screenshots).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phaseray.config import Config, load
from phaseray.pipeline.loading import open_dataset
from phaseray.training.loop import fit
from phaseray.training.state import TrainingState
from phaseray.tuning.log import TrialRow
from phaseray.tuning.results import finish
from phaseray.tuning.space import random_points, training
from phaseray.tuning.sweep import _tracked
from phaseray.tuning.trial import Trial, _measured
from tests.browser.chromium import Page, chromium, executable
from tests.shards import write_shards
from tests.test_tracking_server import Server

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(executable() is None, reason="no Chromium"),
]

SCREENSHOTS = Path(os.environ.get("PHASERAY_SCREENSHOTS", Path(__file__).parents[2] / "runs" / "screenshots"))
SPACES = """tune.spaces={
  mlp: {train: {model: {kind: mlp, hidden: [4]}, epochs: 2}, search: {learning_rate: [0.001, 0.01]}},
  unet: {train: {model: {kind: unet, width: 2, depth: 2}, epochs: 2}, search: {model.width: [2, 4]}}}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def finished(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep of four trials, trained here and told to the server as a sweep on Ray Tune does."""
    folder = tmp_path_factory.mktemp("sweep")
    write_shards(folder / "shards", {"train": 8, "val": 4})
    data = open_dataset(folder / "shards")
    config: Config = load(None, [SPACES, "tune.trials=4", f"tracking.uri={server.uri}"])
    task = Trial(config.tune, data.path, str(folder), seed=0)
    (folder / "config.yaml").write_text("{}")
    tracked = _tracked(config, data, folder, 0)
    assert tracked
    rows = []
    for i, point in enumerate(random_points(config.tune, seed=0)):
        row = TrialRow(f"trial{i}", point, status="TERMINATED")
        chosen = training(config.tune, point)

        def report(state: TrainingState, row: TrialRow = row) -> None:
            row.metrics.append(_measured(task, state.to_use, state.meta, data, task.place(row.trial_id)))

        fit(TrainingState.fresh(chosen, data, seed=0), data, on_epoch=report)
        run = tracked.child(row)
        run.params(tracked.params(row))
        rows.append(row)
    summary = finish(config, data, folder, 0, rows, tracked, 1.0)
    return {**summary, "names": [t["name"] for t in json.loads((folder / "trials.json").read_text())],
            "experiment": tracked.store.experiment_id}  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with chromium(tmp_path / "profile") as page:
        yield page


def _shows_an_image(page: Page, name: str) -> None:
    page.wait("[...document.images].some(i => i.complete && i.naturalWidth > 200 && i.clientWidth > 100)", 30)
    page.screenshot(SCREENSHOTS / name)


def test_runs_are_selected_compared_and_looked_at(server: Server, finished: dict[str, Any], page: Page) -> None:
    experiment = f"{server.uri}/#/experiments/{finished['experiment']}"
    page.open(f"{experiment}/runs")
    page.wait_for("sweep mlp+unet tpe asha x4 s0")
    page.click("document.querySelector('[role=row] button[data-component-id*=runnamecellrenderer]')")
    page.wait_for(*finished["names"])
    page.screenshot(SCREENSHOTS / "runs.png")

    for i in range(1, 5):
        page.click(f"document.querySelector('.ag-row[row-index=\"{i}\"] input[type=checkbox]')")
    page.click("document.querySelector('[data-testid=runs-compare-button]')")
    page.wait_for("Comparing 4 Runs", "Parallel Coordinates Plot")
    # a line through the axes is drawn, of parameters and of a metric
    page.wait("document.querySelectorAll('.js-plotly-plot .parcoords, .js-plotly-plot canvas').length")
    page.wait_for("learning_rate", "model.kind", "val/map_cc", "val/loss", "train/loss", "best/map_cc", "time/epoch_s")
    time.sleep(1)  # the plot grows into its place
    page.screenshot(SCREENSHOTS / "compare.png")

    run = f"{experiment}/runs/{finished['run_id']}"
    page.open(f"{run}/artifacts/sweep/parallel.png")
    _shows_an_image(page, "parallel.png")
