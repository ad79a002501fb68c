"""Whether every node of the cluster sees a path, asked of the nodes themselves.

No mount table tells it: a path may be NFS on one node and a local disk on the next. So the driver leaves
a file of a name that was never there before, and a task on each other node looks for it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from phaseray.config import ConfigError

# a client of NFS may hold a listing for so long
_PATIENCE = 10.0
_ANSWER = 60.0  # seconds until a node that does not answer is left out: work will go elsewhere
_MOST_NODES = 64  # asked at once; of a larger cluster the first, in the order of their ids


def require_shared(out: str | Path, *inputs: str | Path) -> None:
    """Refuse a path that is not the same on every node. On a cluster of one node nothing is asked.

    Parameters
    ----------
    out
        A folder to write into.
    inputs
        Files that are to be read.

    Raises
    ------
    ConfigError
        Names the path and the nodes that do not see it.
    """
    here = ray.get_runtime_context().get_node_id()
    others = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != here}
    if not others:
        return
    asked = dict(sorted(others.items())[:_MOST_NODES])
    for path in map(Path, inputs):
        _refuse(path.parent, _blind(path.absolute(), asked))
    out = Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    probe = out / f".{uuid.uuid4().hex}.tmp"  # a name that `sweep` takes for its own
    probe.write_text("is this seen on every node?")
    try:
        _refuse(out, _blind(probe, asked))
    finally:
        probe.unlink(missing_ok=True)


def _refuse(folder: Path, blind: list[str]) -> None:
    if blind:
        raise ConfigError(
            f"{folder} is not shared: this node has it, {', '.join(blind)} {'does' if len(blind) == 1 else 'do'} not. "
            "On several nodes give a folder that all of them mount, such as NFS; or use a cluster of one node"
        )


def _blind(file: Path, nodes: Mapping[str, str]) -> list[str]:
    """Addresses of the nodes that do not see a file."""
    size = file.stat().st_size
    ask = ray.remote(num_cpus=0, max_retries=0)(_sees)
    answers = {
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        ).remote(str(file), size): address
        for node, address in nodes.items()
    }  # fmt: skip
    ready, silent = ray.wait(list(answers), num_returns=len(answers), timeout=_ANSWER)
    for answer in silent:
        ray.cancel(answer, force=True)
    blind = []
    for answer in ready:
        try:
            if not ray.get(answer):
                blind.append(answers[answer])
        except ray.exceptions.RayError:
            continue  # the node died since: others do its work
    return sorted(blind)


def _sees(file: str, size: int) -> bool:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            if Path(file).stat().st_size == size:
                return True
        except OSError:
            pass
        time.sleep(0.2)
    return False
