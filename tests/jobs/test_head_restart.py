"""The head of a cluster dies with a job on it: the same command, sent to the next head, goes on and ends the same."""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from phaseray.config import load
from phaseray.pipeline.plan import PLAN, write_plan
from phaseray.pipeline.shards import ShardWriter
from tests.conftest import left_of, own_home
from tests.jobs.test_submit import PORTS, free_ports, running_head

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(240)]

CRYSTALS, A_FILE = 120, 2
SETTINGS = [
    f"ingest.sources=[{{kind: synthetic, count: {CRYSTALS}, max_atoms: 40}}]", "ingest.rows_per_part=40",
    "generate.grid.n=32", "generate.d_min=1.2", f"generate.rows_per_shard={A_FILE}", "ray.actors=1",
]  # fmt: skip
OPTIONS = [word for setting in SETTINGS for word in ("--set", setting)]


def written(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("part-*.parquet"))}


def without_ray(catalogue: Path, out: Path) -> dict[str, bytes]:
    config = load(None, SETTINGS)
    out.mkdir()
    units = write_plan(config.generate, catalogue, out / PLAN)
    writer = ShardWriter(str(catalogue), str(out), config.generate.model_dump(mode="json"), 0)
    with threadpool_limits(1):  # as in Ray's workers: more threads would change the last bits of sums
        for unit in units:
            writer(unit)
    return written(out)


def test_a_job_goes_on_under_the_next_head(tmp_path: Path):
    catalogue, out = tmp_path / "catalogue", tmp_path / "shards"
    generate = ["generate", "--catalogue", catalogue, "--out", out, "--submission-id", "grids", *OPTIONS]
    ports, token = free_ports(len(PORTS)), secrets.token_hex(32)
    with own_home() as home:
        with running_head(home, ports, token) as head:
            ingested = head.phaseray("ingest", "--out", catalogue, *OPTIONS)
            assert ingested.returncode == 0, ingested.stdout + ingested.stderr
            sent = head.phaseray(*generate, "--no-follow")
            assert sent.returncode == 0, sent.stdout + sent.stderr
            until = time.monotonic() + 100
            while len(list(out.rglob("part-*.parquet"))) < 8:
                assert time.monotonic() < until, sent.stdout
                time.sleep(0.005)
            for number in left_of(home):  # the power goes
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        stood = {path: path.stat().st_mtime_ns for path in out.rglob("part-*.parquet")}
        assert 8 <= len(stood) < CRYSTALS // A_FILE
        assert not (out / "dataset.json").exists()

        with running_head(home, ports, token) as head:
            job = head.phaseray(*generate)
            assert job.returncode == 0, job.stdout + job.stderr
    assert f"generate: 0 of {CRYSTALS - A_FILE * len(stood)} crystals" in job.stdout
    assert "grids: succeeded" in job.stdout
    assert stood == {path: path.stat().st_mtime_ns for path in stood}
    whole = without_ray(catalogue, tmp_path / "reference")
    assert written(out) == whole
    print(
        f"head killed when {len(stood)} of {len(whole)} files stood; the next did the other {len(whole) - len(stood)}"
    )
