"""Coverage-guided fuzzing of the readers: atheris looks for inputs that take new ways through our code.

    pip install atheris
    python -m tests.fuzz.guided cif CORPUS_FOLDER -runs=20000 -max_len=4096 -timeout=5
    python -m tests.fuzz.guided reflections CORPUS_FOLDER -runs=20000 -max_len=4096 -timeout=5

The options are libFuzzer's; new inputs go into the corpus. What it finds it writes here as crash-…, and ends.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["phaseray"]):
    from tests.fuzz.fuzz import READERS, judge


def main() -> None:
    read = READERS[sys.argv.pop(1)]

    def one(content: bytes) -> None:
        outcome, wrong, _ = judge(read, content)
        if wrong:
            raise AssertionError(f"{outcome}: {wrong}")

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
