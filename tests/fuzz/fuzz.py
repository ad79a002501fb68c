"""Thousands of damaged files through a reader, in processes whose death is noticed.

    python -m tests.fuzz.fuzz /folder/of/cif --count 100000 --seed 1
    python -m tests.fuzz.fuzz /folder/of/measured/sets --reader reflections --count 100000 --seed 1

A finding is an input on which the reader raises anything but a Rejection, calls it "internal", takes over a
second of the processor, asks for more memory than allowed, or dies. Each is kept in --keep by its number. The
exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phaseray.crystal import Rejection
from phaseray.sources import read_cif
from tests.fuzz import reflections
from tests.fuzz.mutations import Mutation, mutated

SECONDS = 1.0
MEMORY = 1 << 30  # bytes beyond what the process has when it begins


READERS: dict[str, Callable[[bytes], Any]] = {"cif": read_cif, "reflections": reflections.read}
GENTLE: dict[str, Sequence[Mutation]] = {"reflections": reflections.GENTLE}
FILES: dict[str, Sequence[str]] = {"cif": ("*.cif",), "reflections": reflections.FILES}


@dataclass
class Tally:
    """Outcomes by name, the findings, and the most that a file took of the processor, in seconds."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, other: Tally) -> None:
        self.outcomes.update(other.outcomes)
        self.findings += other.findings
        self.slowest = max(self.slowest, other.slowest)


def judge(read: Callable[[bytes], Any], content: bytes) -> tuple[str, str | None, float]:
    """The outcome, what is wrong with it, and the seconds of the processor."""
    began = time.process_time()
    wrong = None
    try:
        said = read(content)
        outcome = said if isinstance(said, str) else "read"
    except Rejection as rejection:
        outcome = rejection.code
        if outcome == "internal":
            wrong = rejection.sentence
    except BaseException as error:  # what a reader must not let through
        outcome, wrong = "raised", f"{type(error).__name__}: {error}"
    seconds = time.process_time() - began
    if seconds > SECONDS and wrong is None:
        wrong = f"took {seconds:.1f} s"
    return outcome, wrong, seconds


def run(reader: str, corpus: Sequence[bytes], seed: int, numbers: range) -> Tally:
    """All of `numbers` in this process."""
    tally = Tally()
    for i in numbers:
        outcome, wrong, seconds = judge(READERS[reader], mutated(corpus, seed, i, GENTLE.get(reader, ())))
        tally.outcomes[outcome] += 1
        tally.slowest = max(tally.slowest, seconds)
        if wrong:
            tally.findings.append({"number": i, "outcome": outcome, "why": wrong})
    return tally


def run_apart(reader: str, corpus: Sequence[bytes], seed: int, numbers: range) -> Tally:
    """The same in a process with little memory; if it dies, the halves again, down to the file that kills it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, reader, corpus, seed, numbers))
    child.start()
    theirs.close()
    try:
        # a reader that hangs takes its whole share with it, as one that dies does
        tally: Tally | None = ours.recv() if ours.poll(60 + 5 * SECONDS * len(numbers)) else None
    except EOFError:
        tally = None
    if tally is None:
        child.kill()
    child.join()
    if tally is not None:
        return tally
    if len(numbers) == 1:
        found = {"number": numbers[0], "outcome": "died", "why": f"the process ended with {child.exitcode}"}
        return Tally(Counter(died=1), [found])
    middle = len(numbers) // 2
    both = run_apart(reader, corpus, seed, numbers[:middle])
    both.add(run_apart(reader, corpus, seed, numbers[middle:]))
    return both


def _child(line: Any, reader: str, corpus: Sequence[bytes], seed: int, numbers: range) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    line.send(run(reader, corpus, seed, numbers))


def corpus_of(*folders: Path, reader: str = "cif") -> list[bytes]:
    found = sorted({path for folder in folders for pattern in FILES[reader] for path in folder.rglob(pattern)})
    corpus = [path.read_bytes() for path in found]
    return reflections.shortened(corpus) if reader == "reflections" else corpus


def main() -> int:
    parser = argparse.ArgumentParser(description="Damaged files through a reader.")
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--reader", choices=sorted(READERS), default="cif")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=int, default=500, help="files a process")
    parser.add_argument("--keep", type=Path, help="folder for what was found")
    options = parser.parse_args()
    corpus = corpus_of(*options.folder, reader=options.reader)
    whole = Tally()
    began = said = time.monotonic()
    for first in range(0, options.count, options.share):
        whole.add(
            run_apart(
                options.reader, corpus, options.seed, range(first, min(options.count, first + options.share))
            )
        )  # fmt: skip
        if time.monotonic() - said > 10:
            said = time.monotonic()
            done = sum(whole.outcomes.values())
            print(f"{done:,} of {options.count:,}, {len(whole.findings)} findings", file=sys.stderr, flush=True)
    for finding in whole.findings:
        print(f"{finding['number']}: {finding['outcome']}: {finding['why'][:200]}")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            content = mutated(corpus, options.seed, finding["number"], GENTLE.get(options.reader, ()))
            (options.keep / f"{options.seed}-{finding['number']}").write_bytes(content)
    facts = {
        "reader": options.reader, "corpus": len(corpus), "seed": options.seed, "files": sum(whole.outcomes.values()),
        "findings": len(whole.findings), "slowest_s": round(whole.slowest, 2),
        "minutes": round((time.monotonic() - began) / 60, 1), "outcomes": dict(whole.outcomes.most_common()),
    }  # fmt: skip
    print(json.dumps(facts, indent=1))
    return int(bool(whole.findings))


if __name__ == "__main__":
    sys.exit(main())
