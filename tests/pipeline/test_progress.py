"""The lines of progress: what a person reads while waiting."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from phaseray.pipeline.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def waiting(total: int, *, terminal: bool = False) -> tuple[Progress, Clock, io.StringIO]:
    said, clock = io.StringIO(), Clock()
    console = Console(file=said, width=200, force_terminal=terminal, highlight=False)
    return Progress("ingest", total, console=console, clock=clock), clock, said


def lines(said: io.StringIO) -> list[str]:
    return said.getvalue().splitlines()


def test_the_start_of_actors_is_in_no_estimate():
    """Two actors that take 20 s to start, then 64 crystals in 10 s each."""
    progress, clock, said = waiting(2266)
    for seconds, done in [(20, 64), (0.4, 64), (9.6, 64), (0.4, 64), (9.6, 64)]:
        clock.now += seconds
        progress.advance(done, 1)
    assert lines(said) == [
        "ingest: 0 of 2,266 crystals",
        "ingest: 64 of 2,266 crystals, 1 rejected",
        "ingest: 192 of 2,266 crystals, 3 rejected, 6.7/s, 5 min left",
        "ingest: 320 of 2,266 crystals, 5 rejected, 9.8/s, 3 min left",
    ]


def test_one_early_crystal_gives_no_time_left():
    progress, clock, said = waiting(2266)
    clock.now += 20.5
    progress.advance(1)
    assert lines(said)[-1] == "ingest: 1 of 2,266 crystals"


def test_the_last_line_has_the_whole_time():
    progress, clock, said = waiting(100)
    clock.now += 20
    progress.advance(100, 7)
    progress.close()
    assert lines(said)[-1] == "ingest: 100 of 100 crystals, 7 rejected, 5.0/s, 20 s in all"


def test_a_finished_folder_is_told_once():
    progress, _, said = waiting(0)
    progress.close()
    assert lines(said) == ["ingest: nothing left to do"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(5, "12/min, 55 min left"), (60, "1.0/min, 10 h 55 min left"), (3600, "1.0/h, 27 d 7 h left")],
)
def test_long_waits_are_told_in_hours_and_days(seconds: float, told: str):
    progress, clock, said = waiting(660)
    for _ in range(5):
        clock.now += seconds
        progress.advance(1)
    assert lines(said)[-1] == f"ingest: 5 of 660 crystals, {told}"


def test_in_a_terminal_one_line_renews_itself():
    progress, clock, said = waiting(100, terminal=True)
    clock.now += 1
    progress.advance(50)
    progress.close()
    text = said.getvalue()
    assert text.count("\n") == 1
    assert text.count("\x1b[2K") == 3
    assert text.endswith("50 of 100 crystals, 50/s, 1.0 s in all\n")
