"""One line of progress that renews itself in a terminal, and a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

Report = Callable[[str], None]

BURST = 1.0  # s; actors start together, so their first results come together
SURE = 2.0  # s of results, from when on a rate is worth telling


class Progress:
    """Counts what is done of a known total and says rate, rejections and time left.

    The rate is taken from the first results on, as actors take seconds to start and do nothing in that
    time. The last line has the whole time, start included.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str = "crystals",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.title, self.total, self.unit, self.clock = title, total, unit, clock
        self.done = self.rejected = 0
        self.start = self.said = clock()
        self.first: float | None = None  # when the first result came
        self.before, self.since = 0, self.start  # what was done when the rate began to be taken, and when that was
        if total:
            self._say(self.start)

    def advance(self, done: int, rejected: int = 0) -> None:
        now = self.clock()
        self.done += done
        self.rejected += rejected
        if self.first is None:
            self.first = now
        if now - self.first <= BURST:
            self.before, self.since = self.done, now
        if self.done < self.total and now - self.said >= (0.2 if self.console.is_terminal else 5.0):
            self._say(now)

    def close(self) -> None:
        """The last line: what was done in all, and how long it took."""
        self._say(self.clock(), last=True)

    def rate(self, now: float) -> float | None:
        """Units a second since the first results; None until that can be said."""
        seconds = now - self.since
        return (self.done - self.before) / seconds if self.done > self.before and seconds >= SURE else None

    def _say(self, now: float, *, last: bool = False) -> None:
        self.said = now
        line = self._line(now, last)
        if self.console.is_terminal:
            self.console.file.write("\r\x1b[2K" + line + ("\n" if last else ""))
            self.console.file.flush()
        else:
            self.console.print(line, soft_wrap=True, markup=False)

    def _line(self, now: float, last: bool) -> str:
        if not self.total:
            return f"{self.title}: nothing left to do"
        parts = [f"{self.title}: {self.done:,} of {self.total:,} {self.unit}"]
        if self.rejected:
            parts.append(f"{self.rejected:,} rejected")
        if last:
            seconds = now - self.start
            if self.done and seconds > 0:
                parts.append(f"{_rate(self.done / seconds)}, {_duration(seconds)} in all")
        else:
            rate = self.rate(now)
            if rate is not None:
                left = self.total - self.done
                parts.append(_rate(rate))
                parts += [f"{_duration(left / rate)} left"] * (left > 0)
        return ", ".join(parts)


def _rate(rate: float) -> str:
    unit, seconds = next((u for u in (("s", 1), ("min", 60)) if rate * u[1] >= 1), ("h", 3600))
    rate *= seconds
    return f"{rate:,.0f}/{unit}" if rate >= 9.95 else f"{rate:.1f}/{unit}"


def _duration(seconds: float) -> str:
    """In the two units that matter."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
