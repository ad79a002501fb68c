"""make cluster-up and cluster-down: a head, a worker and MLflow with an account, and nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def script(word: str, state: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    return subprocess.run(
        [ROOT / "cluster" / "local" / "cluster.sh", word, state], capture_output=True, text=True, timeout=280,
        env=environment | {"PHASERAY_BIN": str(BIN)}, check=False,
    )  # fmt: skip


@pytest.fixture
def state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pc"))  # short, for Ray's sockets
    yield folder
    script("down", folder)
    shutil.rmtree(folder, ignore_errors=True)


def status(url: str, headers: dict[str, str] | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=20) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code


def running(state: Path) -> list[str]:
    """Processes that name the folder, or were started with it as their HOME."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
            if str(state).encode() in text:
                found.append(folder.name)
    return found


def test_up_and_down(state: Path):
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        up = script("up", state)
        assert up.returncode == 0, up.stdout + up.stderr
        values = dict(re.findall(r"^export (\w+)=(.*)$", (state / "env").read_text(), re.MULTILINE))
        assert (state / "env").stat().st_mode & 0o077 == 0
        assert values["RAY_AUTH_TOKEN"] not in up.stdout
        assert values["MLFLOW_TRACKING_PASSWORD"] not in up.stdout
        assert "phaseray submit pipeline" in up.stdout
        jobs = f"{values['RAY_API_SERVER_ADDRESS']}/api/jobs/"
        assert status(jobs) == 401
        assert status(jobs, {"Authorization": f"Bearer {values['RAY_AUTH_TOKEN']}"}) == 200
        runs = f"{values['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/get?experiment_id=0"
        assert status(runs) == 401
        assert status(runs, {"Host": "evil.example.org"}) == 403
        done = subprocess.run(
            [
                sys.executable, "-c",
                "import mlflow; c = mlflow.MlflowClient(); print(c.get_experiment('0').name)\n"
                "import ray; ray.init(logging_level='ERROR'); print(len(ray.nodes()))",
            ],
            env=os.environ | values | {"RAY_ADDRESS": (state / "address").read_text().strip(), "HOME": str(state)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.stdout.split() == ["Default", "2"], done.stderr

        # a number in our file that is somebody else's by now is left alone
        (state / "pids" / "old").write_text(f"{stranger.pid} 1\n")
        down = script("down", state)
        assert down.returncode == 0
        assert "stopped: 3 processes" in down.stdout
        assert stranger.poll() is None
        assert running(state) == []
        assert "no cluster of ours runs" in script("down", state).stdout
    finally:
        stranger.kill()
        stranger.wait()
