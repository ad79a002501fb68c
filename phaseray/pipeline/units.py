"""Units of work on Ray Data: each unit writes one file, whole or not at all, and is done once.

A unit that ran twice (a killed worker, a lost node) writes the same bytes to the same name, so
"exactly once" needs no transaction: what stands under its final name is done.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy


class UnitWorker(Protocol):
    """Lives in an actor; does units one after the other."""

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        """Do the unit, write its file, return what there is to report (JSON-like)."""
        ...


class _Adapter:
    """A UnitWorker as Ray Data wants it: a table of one row in, a table of one row out."""

    def __init__(self, worker: type, arguments: tuple[Any, ...]) -> None:
        self.worker = worker(*arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import json

        done = [self.worker(json.loads(unit)) for unit in batch["unit"].to_pylist()]
        reports = [json.dumps({**report, "worker_mb": peak_memory()}) for report in done]
        return pa.table({"report": reports})


def peak_memory() -> int:
    """Most MB (10^6 bytes) that this process had in memory at a time."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 // 10**6
    except (OSError, IndexError):
        # also counts what the process that started this one had
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) // 10**6


def run_units(
    worker: type, arguments: tuple[Any, ...], units: Sequence[dict[str, Any]], *, actors: int, num_gpus: float = 0
) -> Iterator[dict[str, Any]]:
    """Reports of all units, as they come, each with `worker_mb`: the peak memory of its worker so far.

    Parameters
    ----------
    worker : type
        A UnitWorker class; built once in each actor with `arguments`.
    actors : int
        Size of the actor pool, at one CPU each.
    """
    import json

    if not units:
        return
    # a block a unit, made here: from_arrow would send out a task for each to look at it
    blocks = ray.data.from_items([{"unit": json.dumps(unit)} for unit in units], override_num_blocks=len(units))
    reports = blocks.map_batches(
        _Adapter,
        fn_constructor_args=(worker, arguments),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(size=min(actors, len(units))),
        num_cpus=1,
        num_gpus=num_gpus or None,
    )
    # no prefetching: its thread outlives the loop, and would start a new Ray after ray.shutdown()
    for batch in reports.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for report in batch["report"].to_pylist():
            yield json.loads(report)
