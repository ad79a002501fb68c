"""From CIFs to shards: through Ray, the same work without Ray, and pymatgen with direct summation, in one run.

    python benchmarks/end_to_end.py [--json out.json]          # the CIFs of both databases, 32³ points
    python benchmarks/end_to_end.py --memory [--json out.json]  # peak memory with 5,000 and with 30,000 crystals

`make databases` brings the CIFs. On as many cores as there are:

(a) ingest and generate as they are, the start of Ray counted;
(b) the very same reading, checking, comparing, computing and writing in one thread of one process, without
    Ray, with a clock around each stage;
(c) what one would write without phaseray: a process pool that goes through the files with pymatgen's CifParser,
    gemmi's direct summation of the same reflections and an FFT, and writes nothing; on evenly chosen files.
"""

from __future__ import annotations

import os

# before NumPy: one thread a worker, in all three
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import argparse
import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

N, D_MIN = 32, 1.0
DATABASES = "[{kind: amcsd}, {kind: core_mof}]"


def configuration(sources: str, dtype: str, n: int = N) -> Any:
    from phaseray.config import load

    grid = [f"generate.grid={{kind: fixed, n: {n}}}", f"generate.d_min={D_MIN}", f"generate.dtype={dtype}"]
    return load(None, [f"ingest.sources={sources}", "ingest.limits.max_volume=20000", *grid])


# -- (a) ----------------------------------------------------------------------------------------


def through_ray(sources: str, dtype: str, n: int, out: Path) -> dict[str, Any]:
    """ingest and generate; runs in a process of its own, so that its peak memory is that of a driver."""
    from phaseray.pipeline import cluster
    from phaseray.pipeline.catalogue import begin_ingest, ingest
    from phaseray.pipeline.shards import generate

    config = configuration(sources, dtype, n)
    began = time.perf_counter()
    with begin_ingest(config, out / "catalogue") as begun, cluster.connected(config.ray):
        started = time.perf_counter() - began
        catalogue = ingest(config, out / "catalogue", begun=begun)
        shards = generate(config, out / "catalogue", out / "shards")
    seconds = time.perf_counter() - began
    keys = ("ok", "split", "bytes", "bytes_per_crystal", "storage_error")
    return {
        "inputs": catalogue["inputs"], "rejected_by_code": catalogue["rejected_by_code"],
        "duplicates": catalogue["duplicates"], **{key: shards[key] for key in keys},
        "seconds": seconds, "seconds_ray_start": started, "seconds_ingest": catalogue["seconds"],
        "seconds_generate": shards["seconds"],
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def watched(arguments: list[str]) -> dict[str, Any]:
    """Run this program again and watch the memory of Ray's workers below it: what it prints, and their peak."""
    import psutil

    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    peaks: dict[int, float] = {}

    def watch() -> None:
        while process.poll() is None:
            try:
                for child in psutil.Process(process.pid).children(recursive=True):
                    if child.name().startswith("ray::"):
                        status = Path(f"/proc/{child.pid}/status").read_text()
                        peak = float(status.partition("VmHWM:")[2].split()[0]) / 1024
                        peaks[child.pid] = max(peak, peaks.get(child.pid, 0.0))
            except (psutil.Error, OSError, IndexError):
                pass
            time.sleep(0.25)

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(process.returncode)
    return {**json.loads(said.splitlines()[-1]), "worker_mb": max(peaks.values(), default=0.0)}


# -- (b) ----------------------------------------------------------------------------------------


class Clocks:
    """Seconds by stage; what is called in a stage within another one counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running: list[str] = []
        self.since = time.perf_counter()

    def switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self.running[-1] if self.running else "rest"] += now - self.since
        self.since = now

    def around(self, owner: Any, name: str, stage: str) -> None:
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self.switch()
            self.running.append(stage)
            try:
                return function(*arguments, **named)
            finally:
                self.switch()
                self.running.pop()

        setattr(owner, name, timed)

    def around_items(self, owner: Any, name: str, stage: str) -> None:
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Iterator[Any]:
            items = iter(function(*arguments, **named))
            while True:
                self.switch()
                self.running.append(stage)
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.switch()
                    self.running.pop()
                yield item

        setattr(owner, name, timed)


def without_ray(sources: str, dtype: str, out: Path) -> dict[str, Any]:
    """What (a) does, in this process, one unit after the other."""
    import pyarrow.parquet as pq

    from phaseray.diffraction import maps
    from phaseray.pipeline import catalogue, duplicates, manifest, reading, shards, storage

    config = configuration(sources, dtype)
    clocks = Clocks()
    manifest._in_a_task = lambda function, *given: function(*given)
    manifest._list = type("_list", (), {"remote": staticmethod(manifest._listed)})
    manifest.ray = type("ray", (), {"get": staticmethod(lambda result: result)})

    def one_by_one(worker: type, arguments: tuple[Any, ...], units: Any, **_: Any) -> Iterator[Any]:
        made = worker(*arguments)
        return ({**made(unit), "worker_mb": 0} for unit in units)

    class NoCluster:
        computing_actors = staticmethod(lambda _: 1)
        will_start = staticmethod(lambda _: False)

        class connected:  # noqa: N801 - in the place of a function
            def __init__(self, _: Any) -> None: ...
            def __enter__(self) -> None: ...
            def __exit__(self, *_: object) -> None: ...

    for module in (catalogue, shards):
        module.run_units, module.require_shared = one_by_one, lambda *_: None
    for module in (catalogue, shards, manifest):
        module.cluster = NoCluster
    clocks.around(manifest.Listing, "write", "list")
    clocks.around_items(reading, "fetch_inputs", "read")
    clocks.around(reading, "parse_input", "parse, check")
    clocks.around(duplicates, "fingerprint", "fingerprint")
    clocks.around(maps, "structure_factor_box", "F")
    clocks.around(shards, "structure_factors_and_density", "density")
    for owner, name in ((pq.ParquetWriter, "write_table"), (pq.ParquetWriter, "close"), (storage.os, "fsync")):
        clocks.around(owner, name, "compress, write")
    clocks.around(storage, "write_bytes", "compress, write")
    clocks.around(shards, "file_digest", "digest of files")
    began = clocks.since = time.perf_counter()
    facts = catalogue.ingest(config, out / "catalogue")
    made = shards.generate(config, out / "catalogue", out / "shards")
    clocks.switch()
    stages = dict(sorted(clocks.seconds.items(), key=lambda item: -item[1]))
    return {"inputs": facts["inputs"], "ok": made["ok"], "seconds": time.perf_counter() - began, "stages": stages}


# -- (c) ----------------------------------------------------------------------------------------


def reflections(cell: np.ndarray) -> np.ndarray:
    """(m, 3) Miller indices down to D_MIN that an N³ half grid holds."""
    import gemmi

    inverse = np.linalg.inv(np.array(gemmi.UnitCell(*cell).orth.mat.tolist()))
    most = N // 2 - 1
    axes = (np.arange(-most, most + 1), np.arange(-most, most + 1), np.arange(most + 1))
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return hkl[((hkl @ inverse) ** 2).sum(1) <= 1 / D_MIN**2]


def by_hand(text: str) -> bool:
    """One CIF: pymatgen's parser, gemmi's direct summation, an FFT."""
    import gemmi
    from pymatgen.io.cif import CifParser

    warnings.simplefilter("ignore")
    try:
        structure = CifParser.from_str(text).parse_structures(primitive=False)[0]
    except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
        return False
    small = gemmi.SmallStructure()
    small.cell = gemmi.UnitCell(*structure.lattice.parameters)
    small.spacegroup = gemmi.SpaceGroup("P 1")
    for site in structure:
        for species, amount in site.species.items():
            atom = gemmi.SmallStructure.Site()
            atom.element = gemmi.Element(species.Z)
            atom.fract = gemmi.Fractional(*site.frac_coords)
            atom.occ, atom.u_iso = amount, 0.02
            small.add_site(atom)
    hkl = reflections(np.array(structure.lattice.parameters))
    calculator = gemmi.StructureFactorCalculatorX(small.cell)
    grid = np.zeros((N, N, N // 2 + 1), complex)
    grid[tuple(hkl.T)] = [calculator.calculate_sf_from_small_structure(small, h) for h in hkl.tolist()]
    np.fft.irfftn(grid.conj(), (N, N, N))
    return True


def by_pool(sources: str, most: int, workers: int, folder: Path) -> dict[str, Any]:
    from phaseray.sources import fetch_inputs, list_inputs

    refs = list(list_inputs(configuration(sources, "float32").ingest.sources, 0, spool=folder))
    refs = refs[:: max(1, len(refs) // most)]
    texts = [content.decode() for _, content, _ in fetch_inputs(refs, spool=folder) if isinstance(content, bytes)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(by_hand, texts[:workers], chunksize=1)  # imports
        began = time.perf_counter()
        good = pool.map(by_hand, texts, chunksize=4)
        seconds = time.perf_counter() - began
    return {"inputs": len(texts), "ok": sum(good), "seconds": seconds, "workers": workers}


# -- together -----------------------------------------------------------------------------------


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    common = [arguments.sources, arguments.dtype, str(N)]
    ours = watched(["--child", "ray", *common, str(folder / "a")])
    shutil.rmtree(folder / "a")
    alone = watched(["--child", "alone", *common, str(folder / "b")])
    shutil.rmtree(folder / "b")
    theirs = by_pool(arguments.sources, arguments.most, cores, folder / "spool")
    rates = [run["inputs"] / run["seconds"] for run in (ours, alone, theirs)]
    facts = {
        "cores": cores, "n": N, "d_min": D_MIN, "dtype": arguments.dtype, "sources": arguments.sources,
        "ray": ours, "alone": alone, "pymatgen_direct": theirs,
        "efficiency": rates[0] / (cores * rates[1]), "times_pymatgen_direct": rates[0] / rates[2],
    }  # fmt: skip
    print(f"{ours['inputs']:,} CIFs, {ours['ok']:,} crystals, {N}³ points, {arguments.dtype}, {cores} cores")
    rows = (
        ("(a) ingest + generate on Ray", ours),
        ("(b) the same, one thread", alone),
        ("(c) pymatgen + gemmi", theirs),
    )
    for (name, run), rate in zip(rows, rates, strict=True):
        print(f"{name:32s}{run['inputs']:8,d} files{run['seconds']:9.1f} s{rate:9.1f} files/s")
    print(f"(a) is {100 * facts['efficiency']:.0f} % of {cores} x (b), and {facts['times_pymatgen_direct']:.1f} x (c)")
    start = ours["seconds_ray_start"]
    print(f"(a): ingest {ours['seconds_ingest']:.1f} s, {start:.1f} of them for Ray to start; ", end="")
    print(f"generate {ours['seconds_generate']:.1f} s; peak memory of the driver {ours['driver_mb']:.0f} MB, ", end="")
    print(f"of a worker {ours['worker_mb']:.0f} MB; {ours['bytes_per_crystal'] / 1e3:.0f} kB a crystal on disk")
    print("\nstage, in (b)                 s   ms a file   share")
    for stage, seconds in alone["stages"].items():
        print(f"{stage:24s}{seconds:7.1f}{1e3 * seconds / alone['inputs']:12.2f}{seconds / alone['seconds']:8.0%}")
    beside = cores * ours["seconds"] - alone["seconds"]
    print(f"{'Ray, and waiting, in (a)':24s}{beside:7.1f}{1e3 * beside / ours['inputs']:12.2f}   ({cores} · a - b)")
    return facts


def memory(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Artificial crystals, of which there are as many as one likes, all of one kind."""
    runs = {}
    print("crystals   driver MB   worker MB   seconds")
    for count in (5000, 30_000):
        sources = f"[{{kind: synthetic, count: {count}, edge: [4, 7]}}]"
        run = watched(["--child", "ray", sources, "float16", "16", str(folder / str(count))])
        shutil.rmtree(folder / str(count))
        runs[count] = {key: run[key] for key in ("inputs", "ok", "driver_mb", "worker_mb", "seconds")}
        print(f"{count:8,d}{run['driver_mb']:12.0f}{run['worker_mb']:12.0f}{run['seconds']:10.0f}")
    growth = {key: runs[30_000][key] / runs[5000][key] - 1 for key in ("driver_mb", "worker_mb")}
    print(f"growth of the driver {growth['driver_mb']:.1%}, of the largest worker {growth['worker_mb']:.1%}")
    return {"runs": runs, "growth": growth}


def child(kind: str, sources: str, dtype: str, n: str, out: str) -> None:
    if kind == "ray":
        facts = through_ray(sources, dtype, int(n), Path(out))
    else:
        facts = without_ray(sources, dtype, Path(out))
    print(json.dumps(facts))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", default=DATABASES, help="as ingest.sources, in YAML")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--most", type=int, default=200, help="files for (c)")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--folder", type=Path, help="for what is written meanwhile (default: a temporary one)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    run: Callable[..., dict[str, Any]] = memory if arguments.memory else compare
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        facts = run(arguments, Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
