"""Make a calibration anew: features of starts right and wrong, of crystals whose truth is known, to coefficients.

    python benchmarks/calibrate_phasing.py CIFS.tar.xz phaseray/phasing/calibrations/charge_flipping.json
    python benchmarks/calibrate_phasing.py CIFS.tar.xz phaseray/phasing/calibrations/network.json --method network \
        --trained-on runs/catalogue --rows rows.npz
    python benchmarks/calibrate_phasing.py CIFS.tar.xz phaseray/phasing/calibrations/atoms.json --method atoms \
        --trained-on runs/catalogue --rows atoms.npz
    python benchmarks/calibrate_phasing.py CIFS.tar.xz phaseray/phasing/calibrations/formula.json --method formula \
        --trained-on runs/catalogue --rows formula.npz
    python benchmarks/calibrate_phasing.py CIFS.tar.xz phaseray/phasing/calibrations/guesses.json --method guesses \
        --trained-on runs/catalogue --rows guesses.npz
    python benchmarks/calibrate_phasing.py CIFS.tar.xz phaseray/phasing/calibrations/chosen.json --method chosen \
        --trained-on runs/catalogue --rows chosen.npz

The crystals are those of a folder or archive that are ordered, of at most --max-volume Å³ and not in the test split,
molecular ones and others in turn, and as many artificial ones as asked for. For the network, the atoms found in its
maps, those of a formula and guessed ones, only those whose formula is not in the catalogues that it was trained on,
artificial ones of a seed that no training uses, the validation split of the last catalogue, and at low resolution real
ones of its test split. Each is tried at one resolution in turn.

The last is made of what the others choose, without the formula and with it, and so is made after them.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch

from phaseray import Crystal, Rejection
from phaseray.config import CifSource, SplitConfig, SymmetricSource, SyntheticSource
from phaseray.diffraction.grid import Shape
from phaseray.diffraction.structure_factors import structure_factor_grid
from phaseray.phasing import calibration, scoring, solve, verdict
from phaseray.phasing.benchmark import FINER, has_c_and_h
from phaseray.phasing.charge_flipping import Flipper, Settings
from phaseray.phasing.milestones import finish
from phaseray.phasing.placing import FORMULA, GUESSES, place
from phaseray.phasing.problem import PhaseProblem, Starts, resampled, unit
from phaseray.phasing.rounds import COMPLETING, PLACING
from phaseray.phasing.verdict import CHOSEN
from phaseray.pipeline.catalogue import read_catalogue
from phaseray.pipeline.schema import crystals as stored
from phaseray.pipeline.split import split_of
from phaseray.sources.files import list_inputs, read_inputs
from phaseray.sources.leaks import HeldOut
from phaseray.sources.symmetric import symmetric_crystal
from phaseray.sources.synthetic import synthetic_crystal

RESOLUTIONS = (0.9, 1.5, 1.2, 2.0, 1.5, 0.8, 1.0)
NAMES = (
    "residual", "skewness", "kurtosis", "top", "negative", "sayre", "patterson", "agreement", "d_min",
    "d_min*residual", "d_min*negative", "d_min*sayre", "d_min*agreement",
)  # fmt: skip
STARTS, MILESTONES, RIGHT = 16, (50, 200), 0.8
NETWORK_RESOLUTIONS = (1.5, 2.0, 1.2, 1.5, 1.0, 1.8)
LOW_RESOLUTIONS = (2.0, 1.8, 2.0)
"""Of crystals of the validation split that are not molecular: there right maps are hardest to tell."""
REAL_RESOLUTIONS = (2.0, 2.0, 1.8, 2.0)
"""Of the real ones of the test split."""
NETWORK_NAMES = (
    "misfit", "steadiness", "agreement", "following", "residual", "sayre", "negative", "patterson", "skewness",
    "kurtosis", "top", "symmetry", "rotations", "d_min", "d_min*misfit", "rotations*symmetry", "misfit*misfit",
    "sayre*sayre", "agreement*agreement", "symmetry*symmetry", "following*agreement", "following*symmetry",
    "expected", "expected*expected", "d_min*expected", "expected*misfit", "allowed",
)  # fmt: skip
ATOMS_NAMES = (
    "criterion", "excess", "criterion*excess", "explained", "agreement", "following", "residual", "patterson",
    "kurtosis", "skewness", "top", "negative", "shortest", "space", "orbits", "d_min", "residual*skewness",
    "shortest*shortest", "top*negative",
)  # fmt: skip
FORMULA_NAMES = (
    "criterion", "excess", "criterion*excess", "explained", "margin", "explained*rival", "residual", "patterson",
    "kurtosis", "skewness", "amplitudes", "amplitudes*amplitudes", "space", "amplitudes*space", "shortest",
    "shortest*shortest",
)  # fmt: skip
CHOSEN_NAMES = ("own", "supported", "contradicted")
TIME_LIMIT = 10.0
"""Seconds, as `phaseray benchmark-phasing` has: hard crystals would take minutes."""
UNUSED_SEED = 987_654
REAL_SEED = 5


def crystals(
    source: str,
    max_volume: float,
    real: int,
    artificial: int,
    seed: int,
    splits: tuple[str, ...],
    trained_on: frozenset[str] = frozenset(),
) -> list[Crystal]:
    found = []
    for _, crystal, _ in read_inputs(list_inputs(CifSource(path=source), seed)):
        if (
            isinstance(crystal, Rejection)
            or crystal.reduced_formula in trained_on
            or (crystal.occupancy < 1).any()
            or crystal.volume > max_volume
        ):
            continue
        formula = crystal.reduced_formula
        if crystal.n_atoms >= 3 and formula not in trained_on and split_of(formula, SplitConfig()) in splits:
            found.append(crystal.with_default_u_iso(0.02))
    np.random.default_rng(seed).shuffle(found)  # type: ignore[arg-type]
    kinds = [c for c in found if has_c_and_h(c)], [c for c in found if not has_c_and_h(c)]
    found = [crystal for pair in zip_longest(*kinds) for crystal in pair if crystal is not None]
    made = [synthetic_crystal(SyntheticSource(max_atoms=60), seed, i) for i in range((artificial + 1) // 2)]
    made += [symmetric_crystal(SymmetricSource(volume=(60, max_volume)), seed, i) for i in range(artificial // 2)]
    return found[:real] + made


def validation(catalogues: list[Path], max_volume: float) -> list[Crystal]:
    """The ordered crystals of the validation split of the last catalogue, of no formula that any was trained on."""
    trained = {f for c in catalogues for f in formulas(c, "train")}
    table = read_catalogue(catalogues[-1])
    table = table.filter(pc.and_(pc.equal(table["split"], "val"), pc.equal(table["status"], "ok")))
    return [
        c.with_default_u_iso(0.02)
        for c in stored(table)
        if (c.occupancy == 1).all() and c.volume <= max_volume and c.n_atoms >= 3 and c.reduced_formula not in trained
    ]


def unseen(source: str, catalogues: list[Path], max_volume: float, number: int, used: frozenset[str]) -> list[Crystal]:
    """Real ordered crystals that are not molecular, none `used`, no two of one formula.

    They are minerals of the last catalogue's test split and crystals of the archive, of no formula that was trained on,
    and share neither a formula nor a prototype with the test split of the archive.
    """
    archive = [c for _, c, _ in read_inputs(list_inputs(CifSource(path=source), 0)) if not isinstance(c, Rejection)]
    split = [split_of(c.reduced_formula, SplitConfig()) for c in archive]
    tests = HeldOut.of(c for c, own in zip(archive, split, strict=True) if own == "test")
    table = read_catalogue(catalogues[-1])
    minerals = pc.and_(pc.equal(table["split"], "test"), pc.equal(table["source"], "amcsd"))
    found = list(stored(table.filter(pc.and_(minerals, pc.equal(table["status"], "ok")))))
    ingested = {f for c in catalogues for f in formulas(c)}
    found += [c for c, own in zip(archive, split, strict=True) if own != "test" and c.reduced_formula not in ingested]
    taken = {f for c in catalogues for f in formulas(c, "train")}
    found = [
        c.with_default_u_iso(0.02)
        for c in found
        if (c.occupancy == 1).all()
        and c.volume <= max_volume
        and c.n_atoms >= 3
        and c.reduced_formula not in taken
        and c.id not in used
        and not has_c_and_h(c)
    ]
    chosen: list[Crystal] = []
    for i in np.random.default_rng(REAL_SEED).permutation(len(found)):
        if len(chosen) < number and found[i].reduced_formula not in taken and not tests.shared(found[i]):
            taken.add(found[i].reduced_formula)
            chosen.append(found[i])
    return chosen


def formulas(catalogue: Path, split: str | None = None) -> list[str]:
    table = read_catalogue(catalogue, ["reduced_formula", "split"])
    if split is not None:
        table = table.filter(pc.equal(table["split"], split))
    found: list[str] = table["reduced_formula"].to_pylist()
    return found


def rows(crystal: Crystal, d_min: float, seed: int, method: str) -> list[tuple[scoring.Features, np.ndarray]]:
    """Features, and map_cc with the truth, of the finished starts at each milestone."""
    problem = PhaseProblem.from_crystal(crystal, d_min)
    truth = truth_of(crystal, problem)
    flipper = Flipper(problem, STARTS, seed, Settings())
    done, out = 0, []
    for stop in MILESTONES:
        flipper.run(stop - done)
        done = stop
        phases = finish(problem, resampled(flipper.phases(), flipper.problem.shape, problem.shape), 40)
        pair = torch.cat([phases, truth[None]])
        right = _map_cc(problem, pair)
        out.append((scoring.features(problem, phases) | {"d_min": np.full(STARTS, d_min)}, right))
    return out


def truth_of(crystal: Crystal, problem: PhaseProblem) -> torch.Tensor:
    """(nx, ny, nz') true unit phases."""
    return unit(torch.as_tensor(structure_factor_grid(crystal, problem.shape, problem.d_min * (1 - 1e-6))))


def _map_cc(problem: PhaseProblem, pair: torch.Tensor) -> np.ndarray:
    """Of all starts with the last one, the truth, on the grid that `benchmark-phasing` compares maps on."""
    shape: Shape = tuple(FINER * n for n in problem.shape)  # type: ignore[assignment]
    fine = problem.on_grid(shape)
    cc: np.ndarray = scoring.correlations(fine, resampled(pair, problem.shape, shape), len(pair) - 1)[:-1].numpy()
    return cc


def network_rows(crystal: Crystal, d_min: float, seed: int, made_by: str) -> list[tuple[scoring.Features, np.ndarray]]:
    """Features, and map_cc with the truth: of the network, the atoms in its maps, those of the formula or guesses."""
    problem = PhaseProblem.from_crystal(crystal, d_min)
    if made_by == FORMULA:
        until = time.perf_counter() + PLACING * TIME_LIMIT
        completed = until + COMPLETING * TIME_LIMIT
        placed = place(problem, solve.atoms_of(crystal.composition), seed, until, completed)
        every = [] if placed is None else list(Starts.of_methods((made_by, placed)).of_each_method())
    else:
        found = solve.solve_starts(problem, "network", None, seed, TIME_LIMIT)
        every = list(found.of_each_method())
    for method, found in every:
        if method == made_by:
            pair = torch.cat([found.phases, truth_of(crystal, problem)[None]])
            right = _map_cc(problem, pair)
            table = scoring.features(problem, found.phases, found.parents) | dict(found.features)
            return [(table | {"parent": found.parents, "d_min": np.full(len(right), d_min)}, right)]
    return []


def chosen_rows(crystal: Crystal, d_min: float, seed: int, _: str) -> list[tuple[scoring.Features, np.ndarray]]:
    """Features, and map_cc with the truth, of the map that the network chooses: without the formula, and with it."""
    problem = PhaseProblem.from_crystal(crystal, d_min)
    truth, out = truth_of(crystal, problem), []
    with torch.no_grad():
        for formula in (None, solve.atoms_of(crystal.composition)):
            found = solve.solve_starts(problem, "network", None, seed, TIME_LIMIT, formula)
            probability, table = scoring.judge(problem, found, "network")
            best = solve.finest(found.parents, probability, table, found.makers)
            alike = scoring.correlations(problem, found.phases, best).double().numpy()
            said = verdict.features(found, probability, alike, best)
            right = _map_cc(problem, torch.stack([found.phases[best], truth]))
            out.append(({name: np.array([value]) for name, value in said.items()}, right))
    return out


def measured(
    chosen: list[Crystal], resolutions: list[float], method: str, seed: int, workers: int
) -> dict[str, np.ndarray]:
    """Features of all starts of all crystals, with "map_cc" and the number of the "crystal"."""
    began, table, cc, owner = time.perf_counter(), [], [], []
    tasks = [(crystal, resolutions[i], seed + i, method) for i, crystal in enumerate(chosen)]
    work = {"charge_flipping": rows, CHOSEN: chosen_rows}.get(method, network_rows)
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        for i, found in enumerate(pool.map(work, *zip(*tasks, strict=True))):
            for features, right in found:
                table.append(features)
                cc.append(right)
                owner.append(np.full(len(right), i))
            if i % 20 == 19:
                print(f"{i + 1} of {len(chosen)} crystals, {time.perf_counter() - began:.0f} s", flush=True)
    joined = {name: np.concatenate([t[name] for t in table]) for name in table[0]}
    return joined | {"map_cc": np.concatenate(cc), "crystal": np.concatenate(owner)}


def draw(held_out: np.ndarray, right: np.ndarray, title: str, path: Path) -> None:
    """Said against found, with 95 % intervals (Wilson) that take the starts of a crystal for independent."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    colour = colormaps["viridis"](0.35)
    for low in np.arange(0, 1, 0.1):
        own = (held_out >= low) & (held_out < low + 0.1)
        n = int(own.sum())
        if n:
            said, was = held_out[own].mean(), right[own].mean()
            middle = (was + 1.92 / n) / (1 + 3.84 / n)
            half = 1.96 / (1 + 3.84 / n) * np.sqrt(was * (1 - was) / n + 0.96 / n**2)
            axes.errorbar(said, was, [[was - middle + half], [middle + half - was]], fmt="o", color=colour, ms=4, lw=1)
            beside = (-27, -12) if said >= 0.9 else (5, -9) if was >= 0.05 else (5, 4)
            axes.annotate(f"{n}", (said, was), beside, textcoords="offset points", fontsize=7, color="0.4")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="probability said", ylabel="share right (map cc ≥ 0.8)")
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=160)


def _one_thread() -> None:
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--max-volume", type=float, default=600.0)
    parser.add_argument("--real", type=int, default=100)
    parser.add_argument("--artificial", type=int, default=50)
    parser.add_argument("--validation", type=int, default=120, help="crystals of the last catalogue's validation split")
    parser.add_argument("--unseen", type=int, default=200, help="real ones besides, not molecular, at low resolution")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trained-on", type=Path, nargs="+", help="catalogues; needed for the network")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--rows", type=Path, help="keep the features here; where the file is there, take them from it")
    parser.add_argument("--figure", type=Path, help="said against found, as a picture")
    parser.add_argument(
        "--method",
        choices=("charge_flipping", "network", "atoms", FORMULA, GUESSES, CHOSEN),
        default="charge_flipping",
    )
    args = parser.parse_args()
    of_network = args.method != "charge_flipping"
    if of_network and args.trained_on is None:
        parser.error(f"--method {args.method} needs --trained-on: what was trained on must not be calibrated on")
    catalogues = args.trained_on if of_network else []
    known = [f for c in catalogues for f in formulas(c)]
    tried = NETWORK_RESOLUTIONS if of_network else RESOLUTIONS
    starts = f"{solve.STARTS['network']} or more" if of_network else STARTS
    names = {
        "charge_flipping": NAMES,
        "network": NETWORK_NAMES,
        "atoms": ATOMS_NAMES,
        FORMULA: FORMULA_NAMES,
        GUESSES: FORMULA_NAMES,
        CHOSEN: CHOSEN_NAMES,
    }[args.method]
    seed = UNUSED_SEED if of_network else args.seed
    splits = ("train", "val")
    chosen = crystals(args.source, args.max_volume, args.real, args.artificial, seed, splits, frozenset(known))
    if of_network:
        more = validation(catalogues, args.max_volume)
        every = max(1, len(more) // max(1, args.validation))
        low = [c for c in more[every // 2 :: every] if not has_c_and_h(c)]
        chosen += more[::every] + low
        used = frozenset(c.id for c in chosen)
        real = unseen(args.source, catalogues, args.max_volume, args.unseen, used)
        chosen += real
    if args.rows and args.rows.exists():
        with np.load(args.rows) as kept:
            joined = {name: kept[name] for name in kept.files}
    else:
        resolutions = [tried[i % len(tried)] for i in range(len(chosen))]
        if of_network and low + real:
            few = [LOW_RESOLUTIONS[i % len(LOW_RESOLUTIONS)] for i in range(len(low))]
            few += [REAL_RESOLUTIONS[i % len(REAL_RESOLUTIONS)] for i in range(len(real))]
            resolutions[-len(few) :] = few
        joined = measured(chosen, resolutions, args.method, args.seed, args.workers)
        if args.rows:
            np.savez_compressed(args.rows, **joined)
    right, crystal_of = joined.pop("map_cc") >= RIGHT, joined.pop("crystal")
    # a crystal may have no row
    crystal_of = np.unique(crystal_of, return_inverse=True)[1]
    # starts of one crystal are not independent
    weight = 4 / np.bincount(crystal_of)[crystal_of]
    held_out = np.zeros(len(right))
    for fold in range(5):
        test = crystal_of % 5 == fold
        part = calibration.fit({n: v[~test] for n, v in joined.items()}, right[~test], names, weight=weight[~test])
        held_out[test] = part.probability({n: v[test] for n, v in joined.items()})
    bins = [(held_out >= low) & (held_out < low + 0.2) for low in np.arange(0, 1, 0.2)]
    made = {
        "crystals": int(crystal_of.max()) + 1, "rows": len(right), "right": round(float(right.mean()), 3),
        "right_from": RIGHT, "seed": args.seed, "d_min": sorted(set(tried)), "starts": starts,
        "log_loss": round(float(-np.log(np.where(right, held_out, 1 - held_out)).mean()), 3),
        "said": [round(float(held_out[b].mean()), 3) for b in bins if b.any()],
        "was": [round(float(right[b].mean()), 3) for b in bins if b.any()],
    }  # fmt: skip
    # a start chosen by the calibration made without its crystal, where one of the starts is right at all
    groups = [np.flatnonzero(crystal_of == i) for i in range(crystal_of.max() + 1)]
    made["solvable_by_a_start"] = sum(bool(right[g].any()) for g in groups if len(g))
    made["solved_by_the_chosen"] = sum(bool(right[g[held_out[g].argmax()]]) for g in groups if len(g))
    calibration.fit(joined, right, names, weight=weight, made=made).write(args.target)
    if args.figure:
        title = f"{args.method.replace('_', ' ')}: {len(right):,} maps, {made['crystals']} crystals, cross-validated"
        draw(held_out, right, title, args.figure)
    print(made)


if __name__ == "__main__":
    main()
