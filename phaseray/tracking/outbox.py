"""What a server could not take yet: one file an entry beside the checkpoints, sent later in the order it was written.

Sending twice does no harm: a metric keeps the time at which it was written, and MLflow keeps equal points once.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from phaseray.tracking.client import is_away

__all__ = ["Outbox", "send_waiting"]

RETRY_S = 10.0  # between tries, so that a training never waits long for a server that is away
PATIENCE_S = 30.0  # at the end of a run

_log = logging.getLogger("phaseray.tracking")
_away_until: dict[str, float] = {}


class Outbox:
    """The entries of one run, in a folder. `send` takes (operation, content) to the server."""

    def __init__(self, folder: str | Path, uri: str, send: Callable[[str, dict[str, Any]], None]) -> None:
        self.folder, self.uri, self.send = Path(folder), uri, send

    def deliver(self, operation: str, content: dict[str, Any]) -> bool:
        """Send it, after all that waits; where that fails it waits too. False then."""
        if self.waiting() or time.monotonic() < _away_until.get(self.uri, 0):
            self._put(operation, content)
            return self.flush()
        try:
            self.send(operation, content)
        except Exception as error:
            if not is_away(error):
                _log.warning("MLflow at %s refused %s: %s", self.uri, operation, error)
                return False
            self._away(error)
            self._put(operation, content)
            return False
        return True

    def flush(self) -> bool:
        """Send what waits. False if some of it still does."""
        if time.monotonic() < _away_until.get(self.uri, 0):
            return False
        for entry in self.waiting():
            document = json.loads(entry.read_text(encoding="utf-8"))
            content = document["content"]
            if "array" in content:
                content = {**content, "array": np.load(self.folder / content["array"], allow_pickle=False)}
            try:
                self.send(document["operation"], content)
            except Exception as error:
                if is_away(error):
                    self._away(error)
                    return False
                _log.warning("MLflow at %s refused %s: %s", self.uri, document["operation"], error)
            entry.unlink()
            shutil.rmtree(self.folder / entry.stem, ignore_errors=True)
        return True

    def insist(self, seconds: float = PATIENCE_S) -> bool:
        """Try for some time. False, and a warning that says what to do, if some still waits."""
        until = time.monotonic() + seconds
        while self.waiting():
            _away_until.pop(self.uri, None)
            if self.flush():
                break
            if time.monotonic() > until:
                _log.warning(
                    "MLflow at %s is away: %d entries of this run wait in %s, and the same command sends them later",
                    self.uri, len(self.waiting()), self.folder,
                )  # fmt: skip
                return False
            time.sleep(1)
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def waiting(self) -> list[Path]:
        """In the order of writing."""
        return sorted(self.folder.glob("*.json"))

    def _put(self, operation: str, content: dict[str, Any]) -> None:
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        attached = self.folder / name
        attached.mkdir(parents=True)
        content = dict(content)
        if "array" in content:
            np.save(attached / "array.npy", content["array"], allow_pickle=False)
            content["array"] = f"{name}/array.npy"
        if operation == "file":
            # it may be another one by the time the server is back
            content["path"] = shutil.copy2(content["path"], attached)
        aside = self.folder / f".{name}.tmp"
        aside.write_text(json.dumps({"operation": operation, "content": content}), encoding="utf-8")
        aside.replace(self.folder / f"{name}.json")

    def _away(self, error: Exception) -> None:
        if self.uri not in _away_until:
            _log.warning("MLflow at %s is away (%s): what is logged waits in %s", self.uri, error, self.folder)
        _away_until[self.uri] = time.monotonic() + RETRY_S


def send_waiting(output: str | Path, seconds: float = PATIENCE_S) -> bool:
    """Send what the runs of an output folder left waiting; True if nothing waits any more."""
    from phaseray.tracking.run import Run

    done = True
    for note in sorted(Path(output).glob("**/outbox/*/run")):
        run = Run(**json.loads(note.read_text(encoding="utf-8")), outbox=str(note.parent))
        done &= run.send_waiting(seconds)
    return done
