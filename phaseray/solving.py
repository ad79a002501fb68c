"""`phaseray solve`: from a measured file of reflections to a map, the atoms in it, and a verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gemmi
import numpy as np

import phaseray
from phaseray.config import Config, ConfigError, SolveConfig, to_yaml
from phaseray.pipeline.storage import write_json, write_text

if TYPE_CHECKING:
    from phaseray.evaluation.periodic import Floats
    from phaseray.phasing.problem import PhaseProblem
    from phaseray.phasing.setting import Placed
    from phaseray.phasing.solve import Method, Solution
    from phaseray.phasing.structure import Structure
    from phaseray.sources.experiment import Experiment
    from phaseray.sources.reflections import Merged

SOLVED, UNSOLVED = 0.8, 0.2
"""Probabilities from which on, and below which, the verdict is a plain one."""
NOT_JUDGED = ("neutron", "electron")
"""Radiations for which no probability is known to hold."""
FLIPPING = 1.25
"""Å: to here charge flipping is tried first, as it is faster and seldom fails."""
BEST_D_MIN = 0.9
"""Å: reflections beyond help nobody to find phases, and cost time."""
FINER = 2
"""Points of the map that is written, for each of the grid that it was phased on, along each axis."""
LARGEST = 30_000.0
"""Å³ of a cell. The network has seen none over 1,100 Å³, and a start takes memory in proportion."""
_FITTING = 30.0  # seconds for the atoms, at most
_WORTH_DRAWING = 5  # atoms of an asymmetric unit: fewer show no molecule
_INCOMPLETE, _UNMERGED = 0.9, 0.6


def solve(config: Config, path: Path, out: Path) -> dict[str, Any]:
    """Phase a measured file and write what is found into `out`.

    Parameters
    ----------
    path
        SHELX .hkl (with .ins, .res or a CIF of the same name beside it), CIF or FCF with reflections, or MTZ.

    Returns
    -------
    What summary.json holds.

    Raises
    ------
    ConfigError
        Settings that cannot be used.
    ValueError
        A file that cannot be read or phased; the message says why.
    """
    from phaseray.phasing.structure import structure_of
    from phaseray.sources.experiment import read_experiment
    from phaseray.sources.reflections import merge

    own = config.solve
    if (out / "run.json").exists():
        raise ConfigError(f"{out} holds what another command wrote: choose another --out")
    experiment = read_experiment(
        path, kind=own.values, cell=own.cell, space_group=own.space_group, formula=own.formula
    )  # fmt: skip
    group = experiment.space_group or gemmi.SpaceGroup("P 1")
    merged = merge(experiment.reflections, group)
    began = time.perf_counter()
    problem, solution, chosen, maker = _phased(own, config.seed, experiment, merged)
    phased = time.perf_counter() - began
    placed, from_map = _placed(problem, chosen, experiment)
    # a time limit makes results depend on the machine; without one the effort is counted
    structure = structure_of(problem, placed, _contents(experiment), _FITTING if own.time_limit else None)
    if from_map:
        experiment = replace(experiment, origins={k: v for k, v in experiment.origins.items() if k != "space_group"})
    summary = _summary(config, path, out, experiment, merged, problem, solution, maker, placed, structure, phased)
    _write(config, path, out, experiment, problem, placed, structure, summary)
    return summary


def _phased(
    own: SolveConfig, seed: int, experiment: Experiment, merged: Merged
) -> tuple[PhaseProblem, Solution, Any, str]:
    """The problem, its solution, the unit phases of it on the half grid, and by which way they were found."""
    import torch

    from phaseray.phasing.problem import PhaseProblem
    from phaseray.phasing.solve import WITH_FORMULA, judged, solve_starts
    from phaseray.sources.reflections import with_absences

    began = time.perf_counter()
    unit_cell = gemmi.UnitCell(*experiment.cell)
    if unit_cell.volume > LARGEST:
        raise ValueError(f"the cell has {unit_cell.volume:,.0f} Å³; cells of at most {LARGEST:,.0f} Å³ can be phased")
    reach = float(unit_cell.calculate_d_array(merged.hkl.astype(np.int32)).min())
    d_min = max(reach, BEST_D_MIN) if own.d_min is None else own.d_min
    if experiment.space_group is not None:
        merged = with_absences(merged, experiment.cell, experiment.space_group, max(d_min, reach))
    data = (experiment.cell, merged.hkl, merged.amplitude)
    try:
        device = torch.device(own.device)
        problem = PhaseProblem.of(*data, d_min=d_min, sigma=merged.sigma, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"solve.device={own.device} cannot be used: {str(error).splitlines()[0]}") from None
    method: Method = _method(own, problem.d_min)
    formula = _contents(experiment) if method in WITH_FORMULA else None
    with torch.no_grad():
        found = solve_starts(problem, method, own.starts, seed, own.time_limit or None, formula)
        solution = judged(problem, found, method, began)
    maker = str(found.makers[solution.start]) or method
    return problem.to("cpu"), solution, found.phases[solution.start].cpu(), maker


def _method(own: SolveConfig, d_min: float) -> Any:
    if own.method != "auto":
        return own.method
    return "hybrid" if d_min <= FLIPPING else "network"


def _placed(problem: PhaseProblem, phases: Any, experiment: Experiment) -> tuple[Placed, bool]:
    """The map about the origin of its space group, and whether that had to be found in the map."""
    from phaseray.phasing.setting import in_found_space_group, in_space_group, with_inversion_at_origin

    if experiment.space_group is not None:
        try:
            return in_space_group(problem, phases, with_inversion_at_origin(experiment.space_group)), False
        except ValueError:
            pass  # a cell that is off the metric of its group by more than measured cells are
    return in_found_space_group(problem, phases), True


def _contents(experiment: Experiment) -> dict[int, int] | None:
    """Atomic number → number of atoms; None where no formula is known, or that of a file is none."""
    from phaseray.phasing.solve import atoms_of

    if experiment.formula is None:
        return None
    try:
        return atoms_of(experiment.formula)
    except ValueError:
        if experiment.origins.get("formula") == "given":
            raise
        return None


# -- what is said of it --------------------------------------------------------------------


def _summary(
    config: Config,
    path: Path,
    out: Path,
    experiment: Experiment,
    merged: Merged,
    problem: PhaseProblem,
    solution: Solution,
    maker: str,
    placed: Placed,
    structure: Structure | None,
    seconds: float,
) -> dict[str, Any]:
    found = structure is not None and structure.units is not None
    complete = float(problem.measured.sum()) / float((problem.measured | problem.missing).sum())
    p = solution.probability
    verdict = "solved" if p >= SOLVED else "not solved" if p < UNSOLVED else "uncertain"
    if verdict == "solved" and experiment.radiation in NOT_JUDGED:
        verdict = "uncertain"
    facts: dict[str, Any] = {
        "name": path.stem,
        "file": str(path),
        "verdict": verdict,
        "probability": round(p, 4),
        "cell": [round(float(x), 4) for x in experiment.cell],
        "volume": round(problem.volume, 1),
        "space_group": placed.space_group.xhm(),
        "space_group_from": experiment.origins.get("space_group", "the map"),
        "fit_of_space_group": round(placed.correlation, 3),
        "formula": experiment.formula,
        "formula_from": experiment.origins.get("formula"),
        "units": round(structure.units, 2) if found and structure is not None and structure.units else None,
        "wavelength": experiment.wavelength,
        "radiation": experiment.radiation,
        "measured": len(experiment.reflections),
        "unique": merged.n_unique,
        "absent": merged.n_absent,
        "r_int": None if merged.r_int is None else round(merged.r_int, 4),
        "completeness": round(complete, 4),
        "d_min": round(problem.d_min, 3),
        "method": solution.method,
        "found_by": maker,
        "starts": solution.starts,
        "agreeing": solution.agreeing,
        "seconds": round(seconds, 1),
        "atoms": 0 if structure is None else len(structure),
        "r1": None if structure is None else round(structure.r1, 4),
        "seed": config.seed,
        "phaseray": phaseray.__version__,
        "out": str(out),
    }
    facts["sentence"] = _sentence(facts, structure)
    facts["advice"] = _advice(facts, config.solve)
    return facts


def _sentence(facts: Mapping[str, Any], structure: Structure | None) -> str:
    p = facts["probability"]
    said = "over 0.99" if p > 0.99 else "under 0.01" if p < 0.01 else f"{p:.2f}"
    begin = {
        "solved": f"The map is right with a probability of {said}",
        "uncertain": f"The map may be right: its probability is {said}",
        "not solved": f"No right map was found: that of the best has a probability of {said}",
    }[facts["verdict"]]
    if structure is None:
        return begin + "."
    number = len(structure)
    atoms = f"{number} atom{'s' * (number != 1)} in the asymmetric unit of {facts['space_group']}"
    known = "of the elements of the formula" if facts["units"] else "whose elements are not known"
    return f"{begin}. {atoms}, {known}: R1 = {100 * facts['r1']:.1f} %."


def _advice(facts: Mapping[str, Any], own: SolveConfig) -> list[str]:
    """What may help, where the map is not surely right."""
    told = []
    if facts["radiation"] in NOT_JUDGED:
        told.append(f"These are {facts['radiation']} data: methods and probabilities were made for X-rays.")
    if facts["space_group_from"] == "the map" and facts["completeness"] < _UNMERGED:
        told.append(
            f"Only {100 * facts['completeness']:.0f} % of the sphere are in the file, and no space group is known: "
            "if equivalents were merged, give --space-group (any of the Laue class will do)."
        )
    if facts["verdict"] == "solved":
        return told
    if facts["completeness"] < _INCOMPLETE and facts["space_group_from"] != "the map":
        told.append(f"The data are {100 * facts['completeness']:.0f} % complete to {facts['d_min']:.2f} Å.")
    if facts["formula"] is None:
        told.append("Give the formula (--formula): its atoms are then placed before anything else is tried.")
    elif facts["formula_from"] != "given":
        told.append(
            f"The formula {facts['formula']} is that of {facts['formula_from']}: if it is wrong, give --formula."
        )
    if own.time_limit:
        told.append(f"Give it more time than {own.time_limit:g} s (--time-limit), or another --seed.")
    if facts["space_group_from"] != "the map":
        told.append(f"The space group {facts['space_group']} may be wrong: P 1, or a subgroup, asks for less.")
    if facts["r_int"] is not None and facts["r_int"] > 0.15:
        told.append(f"R(int) is {100 * facts['r_int']:.0f} %: the Laue class may be too high, or the crystal a twin.")
    if facts["d_min"] > 2.2:
        told.append(f"The data end at {facts['d_min']:.2f} Å; the network was trained to 2.2 Å.")
    if facts["radiation"] is None:
        told.append("The methods and the verdict were made for X-rays, and for crystals that are no twins.")
    return told


# -- files -----------------------------------------------------------------------------------


def _write(
    config: Config,
    path: Path,
    out: Path,
    experiment: Experiment,
    problem: PhaseProblem,
    placed: Placed,
    structure: Structure | None,
    summary: dict[str, Any],
) -> None:
    from phaseray.evaluation import solution_files as files
    from phaseray.evaluation.solution_report import atoms_figure, projections_figure, write_solution_report
    from phaseray.phasing.problem import density_of, resampled

    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.yaml", to_yaml(config))
    fine: Any = tuple(FINER * n for n in problem.shape)
    f = problem.structure_factors(placed.phases)
    density = (density_of(resampled(f, problem.shape, fine), fine) / problem.volume).numpy()
    names = ["map.ccp4", "phases.mtz"]
    files.write_map(out / "map.ccp4", density, problem.cell)
    phases = problem.phases_of_hkl(placed.phases)
    used = np.isfinite(phases)
    hkl = problem.hkl[used]
    amplitude = abs(f).numpy()[tuple((_stored(hkl) % np.array(problem.shape)).T)]
    files.write_phases(out / "phases.mtz", problem.cell, hkl, amplitude, phases[used], experiment.wavelength)
    rows: list[list[str]] = []
    places, numbers = np.empty((0, 3)), np.empty(0, np.int64)
    if structure is not None:
        names += _write_atoms(path, out, experiment, placed, structure, summary)
        rows = _rows(files.labels(structure), structure)
        places, numbers = _whole_cell(structure, placed)
    for name in ("solved.cif", "solved.res", "solved.hkl"):
        if name not in names:  # of an earlier run
            (out / name).unlink(missing_ok=True)
    names += ["report.html", "summary.json", "config.yaml"]
    page = summary | {
        "sentence": summary["sentence"].replace(summary["space_group"], summary["space_group"].replace(" ", "\u00a0")),
        "verdict_class": {"solved": "solved", "uncertain": "uncertain", "not solved": "unsolved"}[summary["verdict"]],
        "facts": facts_in_words(summary),
        "atoms_sentence": _of_atoms(summary),
        "files": [(name, _FILES[name]) for name in names],
    }
    drawn = None
    if structure is not None and len(structure) >= _WORTH_DRAWING:
        names_of = files.labels(structure)
        drawn = atoms_figure(problem.cell, structure.positions, structure.elements, structure.electrons, names_of)
    picture = projections_figure(density, problem.cell, places, numbers)
    write_solution_report(out / "report.html", page, rows, picture, drawn)
    write_json(out / "summary.json", summary)


def _write_atoms(
    path: Path,
    out: Path,
    experiment: Experiment,
    placed: Placed,
    structure: Structure,
    summary: Mapping[str, Any],
) -> list[str]:
    """What a refinement begins with; the names of the files."""
    from phaseray.evaluation import solution_files as files

    measured, cell, group = experiment.reflections, experiment.cell, placed.space_group
    scale = files.write_hkl(out / "solved.hkl", measured.hkl, measured.value, measured.sigma)
    squared = measured.kind == "F2"
    files.write_res(
        out / "solved.res",
        f"{path.stem}: {summary['verdict']} by phaseray, probability {summary['probability']:.2f}",
        cell,
        group,
        structure,
        formula=_contents(experiment),
        wavelength=experiment.wavelength,
        hklf=4 if squared else 3,
        scale=structure.scale * (scale**0.5 if squared else scale),
    )
    if structure.units is None:
        return ["solved.res", "solved.hkl"]
    note = f"phaseray {phaseray.__version__}: {summary['sentence']} Not refined; elements by their electrons."
    files.write_cif(out / "solved.cif", path.stem, cell, group, structure, notes=[note])
    return ["solved.res", "solved.hkl", "solved.cif"]


_FILES = {
    "map.ccp4": "the density of the whole cell, e/Å³ up to scale (CCP4)",
    "phases.mtz": "amplitudes and phases, in P 1 (MTZ: F, PHI)",
    "solved.res": "the atoms, for SHELXL to go on with",
    "solved.hkl": "the reflections as they were read, for SHELXL (its other half)",
    "solved.cif": "the atoms (CIF)",
    "report.html": "this page",
    "summary.json": "what this page says, for programs",
    "config.yaml": "all settings",
}


def _stored(hkl: Any) -> Any:
    """Of each Friedel pair the one that a half grid holds."""
    return np.where(hkl[:, 2:] < 0, -hkl, hkl)


def facts_in_words(s: Mapping[str, Any]) -> list[tuple[str, str]]:
    """For the page and the terminal."""
    edges, angles = (" ".join(f"{x:.{d}f}" for x in part) for part, d in ((s["cell"][:3], 3), (s["cell"][3:], 2)))
    group = (
        f"{s['space_group']}, from {_where(s['space_group_from'])}; the map fits it to {s['fit_of_space_group']:.2f}"
    )
    told = [
        ("cell", f"{edges} Å, {angles}°, {s['volume']:,.0f} Å³"),
        ("space group", group),
    ]  # fmt: skip
    if s["formula"]:
        units = f"; {s['units']:g} in the cell" if s["units"] else ""
        told.append(("formula", f"{s['formula']}, from {_where(s['formula_from'])}{units}"))
    said = f"{s['measured']:,} measured, {s['unique']:,} unique"
    if s["absent"]:
        said += f", {s['absent']:,} that should be absent left out"
    told.append(("reflections", said + ("" if s["r_int"] is None else f"; R(int) {100 * s['r_int']:.1f} %")))
    told.append(("used", f"to {s['d_min']:.2f} Å, {100 * s['completeness']:.0f} % of the sphere"))
    told.append(("found by", f"{_WAYS[s['found_by']]}; {_starts(s)}{s['seconds']:.1f} s"))
    if s["atoms"]:
        told.append(("atoms", f"{s['atoms']} in the asymmetric unit, R1 {100 * s['r1']:.1f} %"))
    return told


_WAYS = {
    "network": "the network", "charge_flipping": "charge flipping", "rrr": "a difference map", "zero": "zero phases",
    "atoms": "atoms found in a map, fitted to the amplitudes", "formula": "the atoms of the formula, placed",
    "guesses": "guessed atoms, completed",
}  # fmt: skip


def _starts(s: Mapping[str, Any]) -> str:
    return f"{s['starts']} starts, {s['agreeing']} with this map; " if s["starts"] else ""


def _where(source: str) -> str:
    return "the command" if source == "given" else source


def _of_atoms(s: Mapping[str, Any]) -> str:
    if s["units"]:
        return (
            "Elements are given out by electrons, the heaviest first, as many of each as the formula has: neighbours "
            "in the periodic table may be exchanged. Hydrogen is not looked for."
        )
    return "Electrons are fitted, up to a factor that all share: without a formula their elements are not known."


def _rows(names: Sequence[str], structure: Structure) -> list[list[str]]:
    return [
        [name, *(f"{x:.4f}" for x in position), str(n), f"{e:.1f}", f"{b:.1f}"]
        for name, position, n, e, b in zip(
            names, structure.positions.tolist(), structure.multiplicity.tolist(), structure.electrons.tolist(),
            structure.b.tolist(), strict=True,
        )
    ]  # fmt: skip


def _whole_cell(structure: Structure, placed: Placed) -> tuple[Floats, Any]:
    """(m, 3) and (m,): all atoms of the cell; those in special positions come more than once."""
    images = np.einsum("gij,nj->ngi", placed.group.rotations, structure.positions) + placed.group.translations
    every = (images[:, :, None] + placed.centrings).reshape(len(structure), -1, 3) % 1.0
    return every.reshape(-1, 3), np.repeat(structure.elements, every.shape[1])
