"""Lines of progress from workers, wherever they run, to the process that asked for the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@contextmanager
def lines_to(progress: Callable[[str], None]) -> Iterator[Any]:
    """An actor that takes lines from workers, and a thread that hands them on to `progress` here."""
    # an actor that needs nothing is put anywhere, and its node may be lost: here it lives as long as who listens
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_Lines).remote()
    over = threading.Event()

    def hand_on() -> None:
        try:
            while not over.wait(0.3):
                for line in ray.get(actor.take.remote()):
                    progress(line)
            for line in ray.get(actor.take.remote(), timeout=5):
                progress(line)
        except ray.exceptions.RayError:
            pass  # Ray is going down; what there was to say is said

    thread = threading.Thread(target=hand_on, daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        over.set()
        thread.join(10)
        ray.kill(actor)


class _Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def put(self, line: str) -> None:
        self.lines.append(line)

    def take(self) -> list[str]:
        taken, self.lines = self.lines, []
        return taken
