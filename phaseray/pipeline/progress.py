"""One line of progress that renews itself in a terminal, and a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console

Report = Callable[[str], None]


class Progress:
    """Counts what is done of a known total and says rate and time left."""

    def __init__(self, title: str, total: int, unit: str = "crystals", console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.title, self.total, self.unit = title, total, unit
        self.done = self.rejected = 0
        self.start = self.last = time.monotonic()
        self._say()

    def advance(self, done: int, rejected: int = 0) -> None:
        self.done += done
        self.rejected += rejected
        now = time.monotonic()
        if now - self.last >= (0.2 if self.console.is_terminal else 5.0):
            self.last = now
            self._say()

    def close(self) -> None:
        self._say(end="\n")

    def _say(self, end: str = "\r") -> None:
        seconds = time.monotonic() - self.start
        rate = self.done / seconds if seconds > 0 else 0.0
        line = f"{self.title}: {self.done:,} of {self.total:,} {self.unit}"
        if self.rejected:
            line += f", {self.rejected:,} rejected"
        if self.done:
            line += f", {rate:,.0f}/s"
        if 0 < self.done < self.total:
            line += f", {(self.total - self.done) / rate:,.0f} s left"
        elif self.done:
            line += f", {seconds:,.1f} s"
        if self.console.is_terminal:
            sys.stderr.write("\r\x1b[2K" + line + end if end == "\n" else "\r\x1b[2K" + line)
            sys.stderr.flush()
        else:
            self.console.print(line)
