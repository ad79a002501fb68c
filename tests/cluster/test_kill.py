"""kill -9 the driver, a worker, a node: the same command goes on, and ends with the same bytes.

Moments are drawn from a seed and told by progress (so many files stand, and so many milliseconds more),
so that they fall into the work however fast the machine is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from phaseray.config import load
from phaseray.pipeline.catalogue import ingest, read_catalogue
from phaseray.pipeline.cluster import connected
from phaseray.pipeline.shards import generate
from tests.conftest import own_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
CRYSTALS, PART = 480, 8
SETTINGS = [
    f"ingest.sources=[{{kind: synthetic, count: {CRYSTALS - 288}, max_atoms: 60}}, {{kind: prototypes}}]",
    f"ingest.rows_per_part={PART}", "generate.grid.n=16", "generate.d_min=1.8", "generate.rows_per_shard=8",
    "ray.num_cpus=4", "ray.actors=2",
]  # fmt: skip


class Driver:
    """The command line in a process, a HOME and a Ray of its own."""

    def __init__(self, home: Path, *arguments: str | Path) -> None:
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        program = "import sys; from phaseray.cli import main; main(sys.argv[1:])"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.home = home
        self.log = (home / "driver.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments), *settings],
            cwd=ROOT, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment | {"HOME": str(home), "RAY_TMPDIR": str(home), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def wait(self) -> None:
        """Until it has ended well."""
        try:
            status = self.process.wait(120)
        finally:
            self.end()
        assert status == 0, (self.home / "driver.log").read_text()

    def end(self) -> None:
        """Kill what is left of it: Ray's processes name a folder below its HOME, or live in its session."""
        self.log.close()
        for number in [self.process.pid, *self.orphans()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait(10)

    def orphans(self) -> list[int]:
        return [n for n, text in processes() if str(self.home) in text]

    def workers(self) -> list[int]:
        """Actors of Ray Data that belong to this driver."""
        return [
            int(n)
            for n, text in processes()
            if text.startswith("ray::") and "MapWorker" in text and str(self.home) in environment_of(n)
        ]


def processes() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue


def environment_of(number: int) -> str:
    try:
        return Path(f"/proc/{number}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


def wait_for(ready: Callable[[], bool], driver: Driver | None = None, seconds: float = 60) -> bool:
    """Whether it came to that before the driver ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if ready():
            return True
        if driver is not None and driver.process.poll() is not None:
            return False
        time.sleep(0.002)
    pytest.fail("nothing came of it")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with own_home() as home:
        yield home


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, config = tmp_path_factory.mktemp("undisturbed"), load(None, SETTINGS)
    with own_home(), connected(config.ray):
        ingest(config, out / "catalogue")
        generate(config, out / "catalogue", out / "shards")
    return out


def assert_undisturbed(out: Path, undisturbed: Path) -> None:
    assert files(out) == files(undisturbed)
    assert not list(out.rglob("*.tmp"))


def parts(out: Path) -> int:
    return len(list(out.rglob("part-*.parquet")))


def kill_at_random(home: Path, out: Path, command: list[str | Path], rng: np.random.Generator, total: int) -> int:
    """Start, kill the driver at a random moment; the number of files that stood then."""
    driver = Driver(home, *command)
    goal = int(rng.integers(parts(out), total - 2))
    delay = rng.uniform(0, 0.05)
    wait_for(lambda: parts(out) >= goal and out.exists(), driver)
    time.sleep(delay)
    os.kill(driver.process.pid, signal.SIGKILL)
    stood = parts(out)
    driver.end()
    return stood


def test_driver_killed_again_and_again(home: Path, undisturbed: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(20261122)
    catalogue, shards = tmp_path / "catalogue", tmp_path / "shards"
    command: list[str | Path] = ["ingest", "--out", catalogue]
    stood = [kill_at_random(home, catalogue, command, rng, CRYSTALS // PART) for _ in range(2)]
    assert not (catalogue / "catalogue.json").exists()
    Driver(home, *command).wait()
    assert_undisturbed(catalogue, undisturbed / "catalogue")
    command = ["generate", "--catalogue", catalogue, "--out", shards]
    stood += [kill_at_random(home, shards, command, rng, parts(undisturbed / "shards"))]
    Driver(home, *command).wait()
    assert_undisturbed(shards, undisturbed / "shards")
    print(f"driver killed when {stood} files stood")


def test_workers_killed(home: Path, undisturbed: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    out = tmp_path / "catalogue"
    driver = Driver(home, "ingest", "--out", out)
    killed = []
    for goal in (rng.integers(0, 15), rng.integers(15, 30), rng.integers(30, 50)):
        if not wait_for(lambda goal=goal: parts(out) >= goal and bool(driver.workers()), driver):  # type: ignore[misc]
            break
        number = int(rng.choice(driver.workers()))
        os.kill(number, signal.SIGKILL)
        killed.append(parts(out))
    driver.wait()
    assert killed
    assert_undisturbed(out, undisturbed / "catalogue")
    print(f"workers killed when {killed} files stood")


def test_nodes_killed(undisturbed: Path, tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    rng = np.random.default_rng(11)
    out, config = tmp_path / "catalogue", load(None, [*SETTINGS, "ray.actors=4"])
    killed = []
    with own_home():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)

            def kill() -> None:
                for goal in (rng.integers(2, 20), rng.integers(25, 45)):
                    wait_for(lambda goal=goal: parts(out) >= goal, seconds=120)  # type: ignore[misc]
                    cluster.remove_node(nodes.pop(), allow_graceful=False)
                    killed.append(parts(out))

            killer = threading.Thread(target=kill)
            killer.start()
            ingest(config, out)
            killer.join(60)
        finally:
            ray.shutdown()
            cluster.shutdown()
    assert len(killed) == 2
    assert_undisturbed(out, undisturbed / "catalogue")
    ids = read_catalogue(out, ["id"])["id"].to_pylist()
    assert len(ids) == len(set(ids)) == CRYSTALS
    print(f"nodes killed when {killed} files stood")
