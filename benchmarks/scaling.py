"""How generate scales: the same job on 1, 2 and 4 nodes of one CPU, and sleeping work on many simulated nodes.

    python benchmarks/scaling.py --out /tmp/scaling

On one machine with few cores the first table ends where the cores do. In the second, units sleep as long as real
ones took, so that what is measured is the driver and the scheduling. Many actors starting on few cores take long, which
a cluster does not know; so `start_s` is the time until each has begun its first unit, and the rest is of the time from
then on until the first actor is without work: units a second, how busy the CPUs were kept (share of that time in which
units ran), and the driver's processor time a unit. `driver_mb` is the driver's peak memory. The row of units
that take no time says how many the driver can hand out a second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one CPU is to be one core
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(24)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"

import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from phaseray.config import load
from phaseray.pipeline.catalogue import ingest
from phaseray.pipeline.cluster import quiet
from phaseray.pipeline.shards import generate
from phaseray.pipeline.units import run_units


class Sleeper:
    """A UnitWorker that takes its time and no processor; reports who it is, and when it was at it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        time.sleep(self.seconds)
        return {"who": os.getpid(), "began": began, "ended": time.monotonic()}


@contextmanager
def nodes(count: int, cpus: int) -> Iterator[None]:
    """A head without CPUs for units (two for Ray Data's own), and `count` nodes."""
    home = tempfile.mkdtemp(prefix="ps")
    before, os.environ["HOME"], os.environ["RAY_TMPDIR"] = os.environ.get("HOME", ""), home, home
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=cpus, object_store_memory=100_000_000)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        quiet()
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ["HOME"] = before
        shutil.rmtree(home, ignore_errors=True)


def real(out: Path, counts: list[int], crystals: int) -> list[dict[str, Any]]:
    """Wall seconds of generate, start of the actors included."""
    settings = [
        f"ingest.sources=[{{kind: synthetic, count: {crystals}, max_atoms: 60}}]", "generate.grid.n=48",
        "generate.d_min=1.0", "generate.rows_per_shard=8",
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for count in counts:
        with nodes(count, 1):
            config = load(None, [*settings, f"ray.actors={count}"])
            ingest(config, out / "catalogue")
            facts = generate(config, out / "catalogue", out / f"shards-{count}")
        rows.append(
            {"nodes": count, "crystals": crystals, "seconds": facts["seconds"], "digest": facts["dataset_digest"]}
        )
    assert len({row["digest"] for row in rows}) == 1  # the same bytes, whatever the cluster
    return rows


def simulated(counts: list[int], cpus: int, seconds: float, units_a_cpu: int) -> list[dict[str, Any]]:
    rows = []
    for count in counts:
        with nodes(count, cpus):
            n = count * cpus * units_a_cpu
            began = time.monotonic()
            spent, spans = [], []
            for report in run_units(Sleeper, (seconds,), [{"unit": i} for i in range(n)], actors=count * cpus):
                spans.append((report["who"], report["began"], report["ended"]))
                spent.append((time.monotonic(), time.process_time()))
        rows.append({"nodes": count, "units": n, "unit_s": seconds, **steady(spans, spent, began, count * cpus)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def steady(
    spans: list[tuple[int, float, float]], spent: list[tuple[float, float]], began: float, cpus: int
) -> dict[str, Any]:
    """What happened while all actors had work.

    Parameters
    ----------
    spans : (actor, seconds at the unit's start, at its end), a unit
    spent : (seconds, processor seconds of the driver) when its report came
    began : seconds at the start of all
    """
    actors = {who for who, _, _ in spans}
    first = max(min(b for who, b, _ in spans if who == actor) for actor in actors)
    last = min(max(e for who, _, e in spans if who == actor) for actor in actors)
    facts = {"actors": len(actors), "start_s": round(first - began, 1), "seconds": round(spent[-1][0] - began, 1)}
    within = [pair for pair in spent if first <= pair[0] <= last]
    if last > first and len(within) > 1:
        ran = sum(max(0.0, min(e, last) - max(b, first)) for _, b, e in spans)
        facts |= {
            "steady_s": round(last - first, 1),
            "units_per_s": round(len(within) / (last - first), 1),
            "busy": round(ran / ((last - first) * cpus), 3),
            "driver_ms_a_unit": round(1000 * (within[-1][1] - within[0][1]) / (len(within) - 1), 2),
        }
    return facts | {"driver_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    for key in keys:
        table.add_column(key, justify="right")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in keys))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="generate on 1, 2, 4 nodes, and sleeping work on many.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--crystals", type=int, default=1500)
    parser.add_argument("--simulated", type=int, nargs="*", default=[4, 16])
    parser.add_argument("--cpus", type=int, default=1, help="of a simulated node")
    parser.add_argument("--unit-seconds", type=float, default=2.0, help="what a shard took")
    parser.add_argument("--units", type=int, default=20, help="a simulated CPU")
    parser.add_argument("--empty", type=int, default=500, help="units that take no time, a CPU; 0: leave them out")
    options = parser.parse_args()
    facts: dict[str, Any] = {"cores": os.cpu_count()}
    if options.nodes:
        facts["real"] = real(options.out, options.nodes, options.crystals)
        show(f"generate on nodes of one CPU ({os.cpu_count()} cores)", facts["real"])
    if options.simulated:
        facts["simulated"] = [
            *(simulated(options.simulated[:1], options.cpus, 0.0, options.empty) if options.empty else ()),
            *simulated(options.simulated, options.cpus, options.unit_seconds, options.units),
        ]
        show("sleeping work", facts["simulated"])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scaling.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
