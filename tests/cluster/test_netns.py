"""A real head and workers with addresses of their own: a link is cut, a node dies, the head dies; nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_limits

from phaseray.config import load
from phaseray.pipeline.plan import PLAN, write_plan
from phaseray.pipeline.shards import ShardWriter
from tests.cluster.networks import Network, network, possible
from tests.conftest import own_home

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not possible(), reason="needs root and iproute2"),
]

CRYSTALS = 160
SETTINGS = [
    f"ingest.sources=[{{kind: synthetic, count: {CRYSTALS}, max_atoms: 40}}]", "ingest.rows_per_part=20",
    "generate.grid.n=40", "generate.d_min=1.0", "generate.rows_per_shard=2", "ray.actors=3",
]  # fmt: skip
OPTIONS = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture
def net() -> Iterator[Network]:
    with own_home() as home, network(home) as net:
        yield net


def run(net: Network, *arguments: str | Path, log: str) -> tuple[int, str]:
    path = net.home / log
    process = net.phaseray(*arguments, log=path)
    status = process.wait(240)
    return status, path.read_text()


def written(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("part-*.parquet"))}


def without_ray(catalogue: Path, out: Path) -> dict[str, bytes]:
    """The same units, one after the other in this process."""
    config = load(None, SETTINGS)
    out.mkdir()
    units = write_plan(config.generate, catalogue, out / PLAN)
    writer = ShardWriter(str(catalogue), str(out), config.generate.model_dump(mode="json"), 0)
    with threadpool_limits(1):  # as in Ray's workers: more threads would change the last bits of sums
        for unit in units:
            writer(unit)
    return written(out)


def wait_for_files(folder: Path, count: int, seconds: float = 200) -> int:
    until = time.monotonic() + seconds
    while (stood := len(list(folder.rglob("part-*.parquet")))) < count:
        assert time.monotonic() < until, f"{stood} of {count} files"
        time.sleep(0.02)
    return stood


def test_a_cut_link_a_dead_node_and_a_dead_head_lose_nothing(net: Network):
    catalogue, out, local = (net.home / name for name in ("catalogue", "shards", "local"))
    local.mkdir()
    for name in ("head", "a", "b"):
        net.add(name)
    net.start("head", cpus=2)
    net.start("a", cpus=2)
    net.start("b", cpus=2, hidden=local)

    # b has a disk of its own under this name: refused before any work
    status, said = run(net, "ingest", "--out", local / "c", *OPTIONS, log="local.log")
    assert status == 2, said
    assert f"{local / 'c'} is not shared" in said
    assert net.addresses["b"] in said

    status, said = run(net, "ingest", "--out", catalogue, *OPTIONS, log="ingest.log")
    assert status == 0, said
    whole = without_ray(catalogue, net.home / "reference")

    command = ["generate", "--catalogue", catalogue, "--out", out, *OPTIONS]
    job = net.phaseray(*command, log=net.home / "generate.log")
    cut = wait_for_files(out, 6)
    net.cut("b")
    killed = wait_for_files(out, cut + 6)
    net.kill("a")
    assert job.wait(240) == 0, (net.home / "generate.log").read_text()
    assert written(out) == whole
    ids = [i for p in out.rglob("part-*.parquet") for i in pq.read_table(p, columns=["id"])["id"].to_pylist()]
    assert len(ids) == len(set(ids)) == CRYSTALS
    print(f"link cut at {cut}, node killed at {killed} of {len(whole)} files")

    # the head goes in mid-work: the job fails with it, and goes on when it is sent to the next head
    again = net.home / "again"
    command[4] = again
    job = net.phaseray(*command, log=net.home / "first.log")
    wait_for_files(again, 8)
    net.kill("head")
    assert job.wait(60) != 0
    stood = {path: path.stat().st_mtime_ns for path in again.rglob("part-*.parquet")}
    assert not (again / "dataset.json").exists()
    net.kill("b")  # `ray start --head` would take its processes, which all namespaces see, for a cluster that runs
    net.start("head", cpus=4)
    status, said = run(net, *command, log="second.log")
    assert status == 0, said
    assert stood == {path: path.stat().st_mtime_ns for path in stood}
    assert written(again) == whole
    print(f"head killed at {len(stood)} of {len(whole)} files")
