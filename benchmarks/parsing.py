"""CIF to crystal: phaseray, gemmi's reader and pymatgen's CifParser on the same files, one thread, one run.

    python benchmarks/parsing.py ARCHIVE_OR_FOLDER [--most N] [--json out.json]

Every program gets every file as bytes in memory. phaseray expands the symmetry, merges special positions and
checks (formula, clashes, displacements); pymatgen expands and merges; gemmi only reads the asymmetric
unit. The better of two rounds counts for phaseray and gemmi, each going through all files by itself; pymatgen
goes once. Ratios are over files that phaseray and pymatgen both accept.
"""

from __future__ import annotations

import os

# before NumPy: the promise is for one thread
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from phaseray import Rejection, read_cif
from phaseray.config import CifSource
from phaseray.sources import fetch_inputs, list_inputs


def by_phaseray(content: bytes) -> bool:
    try:
        read_cif(content)
    except Rejection:
        return False
    return True


def by_gemmi(content: bytes) -> bool:
    try:
        document = gemmi.cif.read_string(content.decode("latin-1"))
        return any(len(gemmi.make_small_structure_from_block(block).sites) for block in document)
    except (ValueError, RuntimeError):
        return False


def by_pymatgen(content: bytes) -> bool:
    from pymatgen.io.cif import CifParser

    try:
        return bool(CifParser.from_str(content.decode("latin-1")).parse_structures(primitive=False))
    except Exception:  # whatever its parser does with a file, it does not give a crystal
        return False


def timed(read: Callable[[bytes], bool], contents: list[bytes], rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (the better round) and outcome of every file."""
    seconds, good = [], []
    for content in contents[:20]:
        read(content)  # imports and caches
    for _ in range(rounds):
        seconds.append([])
        good = []
        for content in contents:
            began = time.perf_counter()
            good.append(read(content))
            seconds[-1].append(time.perf_counter() - began)
    return np.min(seconds, axis=0), np.array(good)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder, archive or file of CIFs")
    parser.add_argument("--most", type=int, default=100_000, help="no more files than about this, evenly taken")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        refs = list(list_inputs(CifSource(path=arguments.source), 0, spool=Path(folder)))
        refs = refs[:: max(1, len(refs) // arguments.most)]
        contents = [c for _, c, _ in fetch_inputs(refs, spool=Path(folder)) if isinstance(c, bytes)]
    runs = {
        "phaseray": timed(by_phaseray, contents, 2),
        "gemmi (reads, no symmetry)": timed(by_gemmi, contents, 2),
        "pymatgen": timed(by_pymatgen, contents, 1),
    }
    ours, accepted = runs["phaseray"]
    theirs, also = runs["pymatgen"]
    both = accepted & also
    facts: dict[str, Any] = {
        "files": len(contents),
        "megabytes": sum(map(len, contents)) / 1e6,
        "both": int(both.sum()),
    }
    print(f"{len(contents):,} files, {facts['megabytes']:.1f} MB; {both.sum():,} accepted by phaseray and pymatgen")
    print("                              accepted    total s     mean ms   median ms")
    for name, (seconds, good) in runs.items():
        facts[name] = {
            "accepted": int(good.sum()), "seconds": float(seconds.sum()),
            "ms": 1e3 * float(seconds.mean()), "ms_median": 1e3 * float(np.median(seconds)),
        }  # fmt: skip
        print(
            f"{name:28s}{good.sum():10,d}{seconds.sum():11.2f}{facts[name]['ms']:12.2f}{facts[name]['ms_median']:12.2f}"
        )
    facts["ratio_of_totals"] = float(theirs[both].sum() / ours[both].sum())
    facts["median_ratio"] = float(np.median(theirs[both] / ours[both]))
    print(f"pymatgen / phaseray: {facts['ratio_of_totals']:.1f} in all, {facts['median_ratio']:.1f} in the median file")
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
