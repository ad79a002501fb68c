"""From references to rows of a catalogue, so that no input can take the worker with it.

Compiled code and regular expressions hear nothing while they run, and Ray calls its actors in a thread
that gets no signals. So the kernel ends a worker that spends more than `limits.max_seconds` of the
processor on one input. A worker that dies of this, or of memory, or of a fault in a library, leaves its
mark beside the part, Ray starts another, and whoever takes up a marked part reads carefully: each input
in a process of its own, where an alarm ends most of what takes too long, and whose death is one rejected row.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

from phaseray.config import IngestConfig, Limits
from phaseray.crystal import Crystal, Rejection
from phaseray.pipeline import schema
from phaseray.pipeline.split import split_of
from phaseray.sources import InputRef, fetch_inputs, parse_input

Row = dict[str, Any]
Content = bytes | Crystal | Rejection

HARD = 3
STARTING = 60.0  # seconds that a reader in its own process may take to begin


class _TimeIsUp(BaseException):
    """Not an Exception: those become Rejections (internal) inside the reader."""


def read_rows(
    refs: list[InputRef], config: IngestConfig, *, spool: Path | None = None, careful: bool = False
) -> list[Row]:
    """A row of schema.CATALOGUE for each reference, in order.

    Parameters
    ----------
    spool : Path or None
        Where listing left the members of archives that cannot be read from the middle.
    careful : bool
        Read in a process of its own, because a worker died of one of these.
    """
    rows: dict[str, Row] = {}
    if not careful:
        for ref, content, sha256 in fetch_inputs(refs, config.limits, spool=spool):
            rows[ref.id] = _row_in_time(ref, content, sha256, config)
    else:
        with _Apart(config) as apart:
            for ref, content, sha256 in fetch_inputs(refs, config.limits, spool=spool):
                rows[ref.id] = apart.row(ref, content, sha256)
    return [rows[ref.id] for ref in refs]


def _row_in_time(ref: InputRef, content: Content, sha256: str, config: IngestConfig) -> Row:
    try:
        with _clocks(config.limits.max_seconds):
            return _row(ref, content, sha256, config)
    except _TimeIsUp:
        return _rejected(ref, sha256, _too_slow(ref, config.limits))


def _row(ref: InputRef, content: Content, sha256: str, config: IngestConfig) -> Row:
    result = _parsed(ref, content, config.limits)
    if isinstance(result, Rejection):
        return _rejected(ref, sha256, result)
    values = schema.atom_values(result)
    return {
        **_known(ref, sha256),
        "status": "ok",
        "split": split_of(values["reduced_formula"], config.split),
        "notes": list(result.notes),
        **values,
        **(schema.rough_values(result) if config.duplicates == "mark" else {}),
    }


def _parsed(ref: InputRef, content: Content, limits: Limits) -> Crystal | Rejection:
    try:
        if isinstance(content, bytes):
            content = parse_input(ref, content, limits)
        if isinstance(content, Crystal) and (edge := float(content.cell[:3].max())) > limits.max_edge:
            return Rejection("too_large", f"an edge of {edge:.0f} Å, limits.max_edge is {limits.max_edge:.0f}")
    except Rejection as rejection:
        return rejection
    return content


def _known(ref: InputRef, sha256: str) -> Row:
    return {"id": ref.id, "uri": ref.uri, "member": ref.member, "sha256": sha256, "source": ref.kind}


def _rejected(ref: InputRef, sha256: str, rejection: Rejection) -> Row:
    return _known(ref, sha256) | {"status": "rejected", "code": rejection.code, "reason": rejection.sentence}


def _too_slow(ref: InputRef, limits: Limits) -> Rejection:
    return Rejection("too_slow", f"reading {ref.id} took over {limits.max_seconds:g} s: raise limits.max_seconds")


# -- clocks ----------------------------------------------------------------------------------


def _time_is_up(number: int, frame: object) -> None:
    raise _TimeIsUp


@contextmanager
def _clocks(seconds: float) -> Iterator[None]:
    """Raise _TimeIsUp after so many seconds; where that is not heard, end the process.

    Processor time of the process ends it: so many seconds in a thread, in the main thread HARD times as
    many, because there the alarm comes first.
    """
    alarm = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, _time_is_up) if alarm else None
    signal.setitimer(signal.ITIMER_PROF, HARD * seconds if alarm else seconds)
    try:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


# -- a process of its own --------------------------------------------------------------------


class _Apart:
    """Makes rows in a child process; starts another when it dies."""

    program: ClassVar[tuple[str, ...]] = ("-m", __name__)

    def __init__(self, config: IngestConfig) -> None:
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def row(self, ref: InputRef, content: Content, sha256: str) -> Row:
        if self.process is None:
            self._start()
        limits = self.config.limits
        try:
            self.line.send((ref, content, sha256))
            if self.line.poll(2 * HARD * limits.max_seconds):
                row: Row = self.line.recv()
                return row
            self._stop()
            return _rejected(ref, sha256, _too_slow(ref, limits))
        except (EOFError, OSError):
            status = self._stop()
        if status == -signal.SIGPROF:
            return _rejected(ref, sha256, _too_slow(ref, limits))
        said = signal.Signals(-status).name if status < 0 else f"status {status}"
        return _rejected(ref, sha256, Rejection("internal", f"the reader died of {ref.id} ({said})"))

    def _start(self) -> None:
        self.line, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, *self.program, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # threads would change the last bits of sums
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self.line.send(self.config.model_dump(mode="json"))
        if not self.line.poll(STARTING):
            self._stop()
            raise RuntimeError(f"no reader came up in {STARTING:g} s")
        self.line.recv()

    def _stop(self) -> int:
        """End the child; its status, negative where a signal ended it."""
        if self.process is None:
            return 0
        self.line.close()
        try:
            status = self.process.wait(1)  # it goes by itself when nobody speaks to it
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process = None
        return status


def serve(line: Connection) -> None:
    """The child: rows for what comes, until nothing comes any more."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_AS, (memory // 2, resource.RLIM_INFINITY))
    config = IngestConfig.model_validate(line.recv())
    line.send("ready")
    while True:
        try:
            ref, content, sha256 = line.recv()
        except EOFError:
            return
        line.send(_row_in_time(ref, content, sha256, config))


class Attempt:
    """A mark beside a part that stands while somebody works on it: who finds one reads carefully."""

    def __init__(self, part: Path) -> None:
        self.mark = part.with_name(f".{part.name}.begun.tmp")  # swept with what else is left

    def begin(self) -> bool:
        """Whether an earlier attempt did not end well."""
        again = self.mark.exists()
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        self.mark.touch()
        return again

    def end(self) -> None:
        self.mark.unlink(missing_ok=True)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
