"""Starting Ray, or joining the cluster that this process runs in."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from phaseray.config import RayConfig


@contextmanager
def connected(config: RayConfig, *, dashboard: bool = False) -> Iterator[None]:
    """Ray for the time of a `with` block; what was started here is stopped here.

    `dashboard` gives a private cluster one, on 127.0.0.1: Ray Tune frees the places of stopped trials only with it.

    In a job (`ray job submit` sets RAY_ADDRESS), or where `ray.address` is set, that cluster is
    joined. Else a private one is started: never one that happens to run on this machine.
    """
    if ray.is_initialized():
        yield
        return
    # A private cluster turns token authentication on by itself (and would not find a token if the
    # mode were set here, after Ray has been imported).
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = _address(config)
    # what workers print is Ray's own talk; our progress comes back as results. That a node is lost is still said
    silent = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        ray.init(address=address, **silent)
    else:
        # fewer than 4 logical CPUs leave Ray Data and Train waiting for one another
        ray.init(
            address="local",
            num_cpus=config.num_cpus or max(4, os.cpu_count() or 1),
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            **silent,
        )
    quiet()
    try:
        yield
    finally:
        ray.shutdown()


def will_start(config: RayConfig) -> bool:
    """Whether `connected` is going to start a Ray of its own, which takes seconds."""
    return not ray.is_initialized() and not _address(config)


def _address(config: RayConfig) -> str | None:
    return config.address or os.environ.get("RAY_ADDRESS")


def quiet() -> None:
    """Ray Data's own progress bars and logs give way to ours: one line a fact."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_fallback_to_arrow_object_ext_type = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def computing_actors(config: RayConfig) -> int:
    """How many actors compute: as asked for, else one a physical core of a lone machine, or a CPU of a cluster."""
    if config.actors:
        return config.actors
    cpus = int(ray.cluster_resources().get("CPU", 1))
    alone = len([node for node in ray.nodes() if node["Alive"]]) == 1
    return max(1, min(cpus, os.cpu_count() or 1) if alone else cpus - 1)
