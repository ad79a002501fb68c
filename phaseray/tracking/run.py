"""One MLflow run, from any process."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseray.tracking.client import connect
from phaseray.tracking.outbox import PATIENCE_S, Outbox

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from phaseray.diffraction.grid import Shape

__all__ = ["Run"]

_log = logging.getLogger("phaseray.tracking")


@dataclass(frozen=True)
class Run:
    """One MLflow run. Small enough to be sent to workers.

    What a server that is away cannot take waits in the folder `outbox`, which all processes that
    log to the run must see. What it refuses is said, and left: no training dies of its tracking.
    """

    uri: str
    run_id: str
    outbox: str

    def params(self, params: Mapping[str, Any]) -> None:
        """MLflow never lets a param change: those already there are kept."""
        if params:
            self._deliver("params", {"params": {k: str(v) for k, v in params.items()}})

    def tags(self, tags: Mapping[str, str]) -> None:
        self._deliver("tags", {"tags": dict(tags)})

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """One call for all of them; None is left out."""
        logged = {k: float(v) for k, v in values.items() if v is not None}
        if logged:
            self._deliver("metrics", {"metrics": logged, "step": step, "time": _now()})

    def dataset(self, digest: str, path: str | Path, name: str = "shards", context: str = "training") -> None:
        """The data set as an input of the run, known by its digest; its card, if it has one, as an artifact."""
        where = str(Path(path).absolute())
        self._deliver("dataset", {"digest": digest, "path": where, "name": name, "context": context})
        card = Path(path) / "README.md"
        if card.exists():
            self.file(card, "dataset")

    def image(self, image: NDArray[np.uint8], key: str = "val/sections", step: int = 0) -> None:
        """(H, W, 3) uint8, shown with a slider over the steps."""
        self._deliver("image", {"array": image, "key": key, "step": step})

    def file(self, path: str | Path, folder: str | None = None) -> None:
        """A file as an artifact, in `folder` of the run's artifacts."""
        self._deliver("file", {"path": str(path), "folder": folder})

    def model(
        self, network: nn.Module, shape: Shape, files: Sequence[str | Path] = (), *, name: str | None = None,
        alias: str | None = None,
    ) -> str | None:  # fmt: skip
        """Log the network with its signature; returns the model's URI, None where the server is away.

        What is logged is the exported graph (pt2: no pickle, no phaseray needed to load it), from
        (-1, 1, *shape) inputs as `phaseray.training.inputs.network_input` makes them to ρ/σ, both
        with the origin in the middle of the grid. It takes any number of crystals, but the grid is
        bound to `shape`; `files` (the checkpoint) go beside it for other grids.

        It is registered as `name`, and `alias` then points to it. Where the server is away the model
        waits as the path of its checkpoint.
        """
        from phaseray.tracking.model import log_model

        content = {"shape": list(shape), "files": [str(f) for f in files], "name": name, "alias": alias}
        made: list[str] = []

        def send(operation: str, content: dict[str, Any]) -> None:
            if operation == "model" and not made:
                made.append(log_model(self, network, shape, files, name=name, alias=alias))
            else:
                self._send(operation, content)

        Outbox(self.outbox, self.uri, send).deliver("model", content)
        self._note()
        return made[0] if made else None

    def end(self, status: str = "FINISHED", patience: float = PATIENCE_S) -> bool:
        """FINISHED, FAILED or KILLED. A server that is away is waited for; False if it stays so."""
        self._deliver("end", {"status": status, "time": _now()})
        return self.send_waiting(patience)

    @contextmanager
    def ending(self) -> Iterator[Run]:
        """Ends the run with the block: as FAILED if it raises."""
        try:
            yield self
        except BaseException as error:
            self.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self.end()

    def send_waiting(self, seconds: float = PATIENCE_S) -> bool:
        """Send what waits in the outbox; False if the server stays away."""
        return self._box().insist(seconds)

    def last_step(self, metric: str) -> int | None:
        """Of the latest value of a metric that the server has; None if it has none."""
        _, client = connect(self.uri)
        for found in client.get_run(self.run_id).data._metric_objs:
            if found.key == metric:
                return int(found.step)
        return None

    def _box(self) -> Outbox:
        return Outbox(self.outbox, self.uri, self._send)

    def _deliver(self, operation: str, content: dict[str, Any]) -> None:
        if not self._box().deliver(operation, content):
            self._note()

    def _note(self) -> None:
        """Whose entries these are, for those who find the folder later."""
        folder = Path(self.outbox)
        if folder.exists() and not (folder / "run").exists():
            (folder / "run").write_text(json.dumps({"uri": self.uri, "run_id": self.run_id}), encoding="utf-8")

    def _send(self, operation: str, content: dict[str, Any]) -> None:
        _OPERATIONS[operation](self, content)


def _now() -> int:
    return int(time.time() * 1000)


def _params(run: Run, content: dict[str, Any]) -> None:
    mlflow, client = connect(run.uri)
    known = client.get_run(run.run_id).data.params
    new = [mlflow.entities.Param(k, v) for k, v in content["params"].items() if k not in known]
    if new:
        client.log_batch(run.run_id, params=new)


def _tags(run: Run, content: dict[str, Any]) -> None:
    mlflow, client = connect(run.uri)
    client.log_batch(run.run_id, tags=[mlflow.entities.RunTag(k, v) for k, v in content["tags"].items()])


def _metrics(run: Run, content: dict[str, Any]) -> None:
    mlflow, client = connect(run.uri)
    logged = [mlflow.entities.Metric(k, v, content["time"], content["step"]) for k, v in content["metrics"].items()]
    client.log_batch(run.run_id, metrics=logged)


def _dataset(run: Run, content: dict[str, Any]) -> None:
    mlflow, client = connect(run.uri)
    entities = mlflow.entities
    dataset = entities.Dataset(
        name=content["name"],
        digest=content["digest"],
        source_type="local",
        source=json.dumps({"uri": content["path"]}),
        profile=None,
    )
    tag = entities.InputTag("mlflow.data.context", content["context"])
    client.log_inputs(run.run_id, [entities.DatasetInput(dataset, [tag])])


def _image(run: Run, content: dict[str, Any]) -> None:
    _, client = connect(run.uri)
    client.log_image(run.run_id, content["array"], key=content["key"], step=content["step"], synchronous=True)


def _file(run: Run, content: dict[str, Any]) -> None:
    _, client = connect(run.uri)
    client.log_artifact(run.run_id, content["path"], content["folder"])


def _model(run: Run, content: dict[str, Any]) -> None:
    from phaseray.tracking.model import log_model
    from phaseray.training.checkpoint import CheckpointError, load_checkpoint

    if not content["files"]:
        _log.warning("a model without a checkpoint waited for MLflow and is lost")
        return
    try:
        network, _ = load_checkpoint(Path(content["files"][0]).parent)
    except CheckpointError as error:
        _log.warning("the model that waited for MLflow is not logged: %s", error)
        return
    log_model(run, network, content["shape"], content["files"], name=content["name"], alias=content["alias"])


def _end(run: Run, content: dict[str, Any]) -> None:
    _, client = connect(run.uri)
    client.set_terminated(run.run_id, content["status"], content["time"])


_OPERATIONS: dict[str, Callable[[Run, dict[str, Any]], None]] = {
    "params": _params, "tags": _tags, "metrics": _metrics, "dataset": _dataset, "image": _image, "file": _file,
    "model": _model, "end": _end,
}  # fmt: skip
