"""Coverage-guided fuzzing of the CIF reader: atheris looks for inputs that take new ways through our code.

    pip install atheris
    python -m tests.fuzz.guided CORPUS_FOLDER -runs=20000 -max_len=4096 -timeout=5

The options are libFuzzer's; what it finds it writes beside the corpus as crash-…, and ends.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["phaseray"]):
    from phaseray.sources import read_cif

from tests.fuzz.fuzz import judge


def one(content: bytes) -> None:
    outcome, wrong, _ = judge(read_cif, content)
    if wrong:
        raise AssertionError(f"{outcome}: {wrong}")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
