"""`ray job submit` to a head with a dashboard and token authentication, as on a real cluster."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from ray._private.runtime_env.packaging import create_package
from ray.job_submission import JobSubmissionClient

from phaseray.pipeline.loading import open_dataset
from phaseray.tracking import git_sha
from tests.conftest import own_home

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent  # of the environment, links not followed
CRYSTALS = 40

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Head:
    """A Ray head of this test's own: its dashboard, and the environment in which it is reached."""

    url: str
    environment: dict[str, str]
    folder: Path

    def submit(self, *command: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        """What a person types, from the project's folder; returns when the job is over."""
        submit = [BIN / "ray", "job", "submit", "--address", self.url, "--working-dir", ".", "--", *command]
        environment = self.environment | ({"RAY_AUTH_TOKEN": token} if token else {})
        return subprocess.run(
            submit, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
        )

    def phaseray(
        self, *arguments: str | Path, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`phaseray submit`, likewise."""
        submit = [BIN / "phaseray", "submit", *map(str, arguments), "--address", self.url]
        return subprocess.run(
            submit, cwd=ROOT, env=environment or self.environment, capture_output=True, text=True, timeout=200,
            check=False,
        )  # fmt: skip

    @contextmanager
    def client(self) -> Iterator[JobSubmissionClient]:
        # the mode and the token of the tests' own process are others
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        yield JobSubmissionClient(self.url, headers=headers)

    def status(self, token: str | None) -> int:
        """The HTTP status of the dashboard's version page."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}/api/version", headers=headers)) as page:
                return int(page.status)
        except urllib.error.HTTPError as error:
            return error.code


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


PORTS = [
    "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
    "runtime-env-agent-port", "metrics-export-port", "ray-client-server-port",
]  # fmt: skip


@contextmanager
def running_head(home: Path, ports: list[int] | None = None, token: str | None = None) -> Iterator[Head]:
    """A head with ports and a token of its own, or with those of one before it."""
    named = dict(zip(PORTS, ports or free_ports(len(PORTS)), strict=True))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # where the head finds `python` for its jobs
        "RAY_TMPDIR": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token or secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # Ray Data's own actors never leave: 30 s for nothing
    }
    start = [BIN / "ray", "start", "--head", "--block", "--num-cpus=4", "--dashboard-host=127.0.0.1"]
    log = home / "head.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*start, *(f"--{name}={port}" for name, port in named.items())],
            cwd=home, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        head = Head(f"http://127.0.0.1:{named['dashboard-port']}", environment, home)
        wait_for_jobs(head, process, log)
        yield head
    finally:
        process.terminate()  # it stops what it started
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_jobs(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a node is there to run them."""
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        try:
            if head.status(head.environment["RAY_AUTH_TOKEN"]) == 200 and "block forever" in log.read_text():
                return
        except OSError:
            pass  # nobody listens yet
        time.sleep(0.3)
    pytest.fail(f"the head did not come up:\n{log.read_text()}")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with own_home() as home, running_head(home) as head:
        yield head


def lines_of(job: subprocess.CompletedProcess[str]) -> list[str]:
    assert job.returncode == 0, job.stdout + job.stderr
    assert "\r" not in job.stdout
    return [line.strip() for line in job.stdout.splitlines()]


def test_crystals_become_shards_by_way_of_two_jobs(head: Head):
    catalogue, shards = head.folder / "catalogue", head.folder / "shards"
    config = ["--config", "jobs/small.yaml"]
    sources = f"ingest.sources=[{{kind: synthetic, count: {CRYSTALS}}}]"
    ingest = head.submit(
        "python", "jobs/ingest.py", *config, "--out", str(catalogue), "--set", sources,
        "--set", f"ingest.rows_per_part={CRYSTALS // 2}",
    )  # fmt: skip
    lines = lines_of(ingest)
    assert f"ingest: 0 of {CRYSTALS} crystals" in lines
    assert any(line.startswith(f"ingest: {CRYSTALS} of {CRYSTALS} crystals, ") for line in lines)

    generate = head.submit(
        "python", "jobs/generate.py", *config, "--catalogue", str(catalogue), "--out", str(shards),
        "--set", "generate.rows_per_shard=16",
    )  # fmt: skip
    lines = lines_of(generate)
    assert f"generate: 0 of {CRYSTALS} crystals" in lines
    assert any(line.startswith(f"generate: {CRYSTALS} of {CRYSTALS} crystals, ") for line in lines)

    data = open_dataset(shards)
    assert any(line.split() == ["dataset", "digest", data.digest] for line in lines)
    read = [
        crystal_id
        for split in ("train", "val", "test")
        for batch in data.batches(split, 8, shuffle=False)
        for crystal_id in batch.ids
    ]
    wanted = pq.read_table(catalogue / "inputs.parquet")["id"].to_pylist()
    assert len(wanted) == CRYSTALS
    assert sorted(read) == sorted(wanted)

    # and with nothing of ours: the density's mean over the cell is F(000) / V
    tables = [pq.read_table(path) for path in sorted(shards.rglob("*.parquet"))]
    assert sorted(crystal_id for table in tables for crystal_id in table["id"].to_pylist()) == sorted(wanted)
    for table in tables:
        density, amplitude = (
            table[name].combine_chunks().to_numpy_ndarray().astype(np.float64) for name in ("density", "amplitude")
        )
        assert density.shape[1:] == (16, 16, 16)
        assert amplitude.shape[1:] == (16, 16, 9)
        volume = table["volume"].to_numpy()
        np.testing.assert_allclose(density.mean(axis=(1, 2, 3)) * volume, amplitude[:, 0, 0, 0], rtol=1e-4)
    assert json.loads((shards / "summary.json").read_text())["ok"] == CRYSTALS


def test_a_job_with_a_bad_config_fails_with_status_2_and_names_the_key(head: Head):
    job = head.submit(
        "python", "jobs/generate.py", "--config", "jobs/small.yaml", "--catalogue", "/nowhere",
        "--out", str(head.folder / "never"), "--set", "generate.dmin=1",
    )  # fmt: skip
    assert job.returncode == 1  # all that `ray job submit` says of a job that failed
    assert "exit code 2" in job.stdout
    assert "generate.dmin" in job.stdout
    assert "Traceback" not in job.stdout
    assert not (head.folder / "never").exists()


def test_without_the_token_nothing_is_served(head: Head):
    token = head.environment["RAY_AUTH_TOKEN"]
    assert [head.status(token), head.status(None), head.status("wrong")] == [200, 401, 403]
    job = head.submit("python", "-c", "print('let in')", token="wrong")
    assert job.returncode != 0
    assert "Invalid authentication token" in job.stderr
    assert "let in" not in job.stdout


SMALL = [
    "--config", "jobs/small.yaml", "--set", f"ingest.sources=[{{kind: synthetic, count: {CRYSTALS}}}]",
    "--set", "ingest.rows_per_part=20", "--set", "generate.rows_per_shard=4", "--set", "generate.grid.n=12",
    "--set", "generate.d_min=2.4", "--set", "train.epochs=1", "--set", "train.model.width=2", "--set", "ray.actors=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def everything(head: Head) -> tuple[Path, str]:
    """The pipeline job, followed; its folder and what it said."""
    out = head.folder / "everything"
    job = head.phaseray("pipeline", *SMALL, "--out", out, "--submission-id", "everything", "--cpus", "0.1")
    assert job.returncode == 0, job.stdout + job.stderr
    return out, job.stdout


def test_the_pipeline_job_goes_from_crystals_to_scores_and_mlflow_holds_the_run(
    head: Head, everything: tuple[Path, str]
):
    out, said = everything
    for folder in ("catalogue", "shards", "models/unet", "scores"):
        assert (out / folder / "summary.json").exists(), folder
    for line in (f"ingest: 0 of {CRYSTALS} crystals", f"generate: 0 of {CRYSTALS} crystals", "everything: succeeded"):
        assert said.count(line) == 1
    trained = json.loads((out / "models/unet/summary.json").read_text())
    run = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}").get_run(trained["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.width"] == "2"
    assert run.data.metrics["best/val_loss"] == pytest.approx(trained["best_val_loss"])
    assert run.data.tags["dataset_digest"] == json.loads((out / "shards/dataset.json").read_text())["dataset_digest"]
    assert run.data.tags.get("git_sha") == git_sha()
    assert head.environment["RAY_AUTH_TOKEN"] not in said
    with head.client() as client:
        details = client.get_job_info("everything")
    assert details.metadata["command"] == "pipeline"
    assert details.entrypoint.startswith("python jobs/pipeline.py --config jobs/small.yaml ")


def test_a_stopped_job_leaves_a_dataset_that_goes_on_under_a_new_id(head: Head, everything: tuple[Path, str]):
    whole, out = everything[0] / "shards", head.folder / "stopped"
    command = ["generate", *SMALL, "--catalogue", everything[0] / "catalogue", "--out", out, "--submission-id", "again"]
    sent = head.phaseray(*command, "--no-follow")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    with head.client() as client:
        until = time.monotonic() + 150
        while not list(out.rglob("*.parquet")):
            assert time.monotonic() < until
            time.sleep(0.005)
        client.stop_job("again")
        while not client.get_job_status("again").is_terminal():
            time.sleep(0.05)
        assert client.get_job_status("again") == "STOPPED"
        stood = {path: path.stat().st_mtime_ns for path in out.rglob("part-*.parquet")}
        assert not (out / "dataset.json").exists()

        job = head.phaseray(*command)
        assert job.returncode == 0, job.stdout + job.stderr
        assert "again-2: succeeded" in job.stdout
    left = CRYSTALS - sum(pq.read_metadata(path).num_rows for path in stood)
    assert (f"generate: 0 of {left} crystals" if left else "nothing left to do") in job.stdout
    assert stood == {path: path.stat().st_mtime_ns for path in stood}
    files = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*.parquet")}
    assert files == {path.relative_to(out): path.read_bytes() for path in out.rglob("*.parquet")}


def test_a_job_that_runs_is_followed_and_not_started_twice(head: Head, everything: tuple[Path, str]):
    out = head.folder / "once"
    with head.client() as client:
        client.submit_job(
            entrypoint="sleep 2; echo the first; exit 2", submission_id="first", metadata={"out": str(out)}
        )
        job = head.phaseray("generate", *SMALL, "--catalogue", everything[0] / "catalogue", "--out", out)
        assert job.returncode == 2  # the job's own status
        assert [j.submission_id for j in client.list_jobs() if (j.metadata or {}).get("out") == str(out)] == ["first"]
    assert f"first runs already and writes {out}" in job.stdout
    assert "the first\n" in job.stdout


def test_what_is_wrong_is_said_before_anything_is_sent(head: Head):
    wrong = {
        ("generate", *SMALL, "--catalogue", "/c", "--out", "relative"): "absolute path",
        ("generate", *SMALL, "--catalogue", "c", "--out", "/o"): "absolute paths",
        ("generate", *SMALL, "--catalogue", "/c", "--out", "/o", "--set", "generate.dmin=1"): "generate.dmin",
        ("train", *SMALL, "--out", "/o"): "--dataset",
        ("solve-everything",): "there are ingest",
    }
    for arguments, said in wrong.items():
        job = head.phaseray(*arguments)
        assert (job.returncode, said in job.stderr) == (2, True), job.stderr
    stranger = {**head.environment, "RAY_AUTH_TOKEN": "wrong" * 8}
    job = head.phaseray("ingest", "--out", "/o", environment=stranger)
    assert job.returncode == 2
    assert "no access" in job.stderr
    assert "wrong" * 8 not in job.stdout + job.stderr
    assert "Traceback" not in job.stderr


def test_what_is_sent_is_small_and_whole(tmp_path: Path):
    """The package that Ray makes of the working directory, with our .gitignore and .rayignore."""
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    assert package.stat().st_size < 2_000_000
    names = set(zipfile.ZipFile(package).namelist())
    tracked = {str(p.relative_to(ROOT)) for p in (ROOT / "phaseray").rglob("*") if p.suffix in (".py", ".html")}
    scripts = {str(p.relative_to(ROOT)) for p in (ROOT / "jobs").iterdir() if p.is_file()}
    assert names >= tracked | scripts | {"pyproject.toml"}
    assert not [name for name in names if name.split("/")[0] in (".git", ".venv", "tests", "benchmarks", "runs")]
