"""The command line: it reads arguments, calls the functions that jobs call too, prints a table."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="phaseray",
    help="Learn to recover the phases that X-ray diffraction loses: crystals to shards to networks, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JOBS = ("ingest", "generate", "train", "tune", "evaluate", "poster", "pipeline")
INTERRUPTED = 130  # how typer says that Ctrl-C was pressed

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file of the run; without: the defaults.")]
Overrides = Annotated[list[str], typer.Option("--set", "-s", help="Override a key: --set generate.d_min=1.5")]


def _lasting(out: Path) -> Path:
    """A job's working directory is a copy that Ray removes when the job is over."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not out.is_absolute():
        raise typer.BadParameter(f"a job needs an absolute path: {out} would be removed together with the job")
    return out


Out = Annotated[Path, typer.Option("--out", "-o", help="Output folder.", callback=_lasting)]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
) -> None:
    """The whole way on crystals that come with the dependencies: ingest, generate, train, evaluate."""
    from phaseray import config as configs
    from phaseray.demo import demo as run

    run(configs.load(config or configs.shipped("demo"), overrides), out)


@app.command()
def ingest(out: Out, config: ConfigFile = None, overrides: Overrides = []) -> None:  # noqa: B006
    """Crystals from any source to a catalogue: every input ends as ok, or rejected with a reason."""
    from phaseray.config import load
    from phaseray.pipeline.catalogue import ingest as run
    from phaseray.tables import print_facts

    print_facts("catalogue", run(load(config, overrides), out))


@app.command()
def generate(
    catalogue: Annotated[Path, typer.Option(help="Folder that ingest wrote.")],
    out: Out,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """A catalogue to shards: amplitudes and densities on grids."""
    from phaseray.config import load
    from phaseray.pipeline.shards import generate as run
    from phaseray.tables import print_facts

    print_facts("shards", run(load(config, overrides), catalogue, out))


@app.command()
def train(
    dataset: Annotated[Path, typer.Option(help="Folder that generate wrote.")],
    out: Out,
    name: Annotated[str | None, typer.Option(help="Which of the config's `models`; without: its `train`.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Train a network on shards with Ray Train; a run of the same folder goes on where it stopped."""
    from dataclasses import asdict

    from phaseray.config import Config, ConfigError, load
    from phaseray.tables import print_facts
    from phaseray.training.ray_train import train as run

    settings: Config = load(config, overrides)
    if name is not None and name not in settings.models:
        raise ConfigError(f"the config has no models.{name}; it has: {', '.join(settings.models) or 'none'}")
    training = settings.models[name] if name else settings.train
    facts = run(training, dataset, out, seed=settings.seed, ray=settings.ray, tracking=settings.tracking, name=name)
    print_facts("model", asdict(facts))


@app.command()
def tune(
    dataset: Annotated[Path, typer.Option(help="Folder that generate wrote.")],
    out: Out,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Search over trainings with Ray Tune; a sweep of the same folder goes on where it stopped."""
    from phaseray.config import load
    from phaseray.tables import print_sweep
    from phaseray.tuning.sweep import tune as run

    print_sweep(run(load(config, overrides), dataset, out))


@app.command()
def poster(out: Out, config: ConfigFile = None, overrides: Overrides = []) -> None:  # noqa: B006
    """The experiment that phaseray starts from, and the same with one remedy at a time."""
    from phaseray.config import load
    from phaseray.poster import poster as run
    from phaseray.tables import print_poster

    print_poster(run(load(config, overrides), out))


@app.command()
def evaluate(
    dataset: Annotated[Path, typer.Option(help="Folder that generate wrote.")],
    out: Out,
    model: Annotated[
        list[str], typer.Option(help="NAME=FOLDER of a trained model, or its URI in MLflow; may be repeated.")
    ] = [],  # noqa: B006
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Compare models with each other and with zero phases on one held-out split; writes a report."""
    from phaseray.comparison import evaluate as run
    from phaseray.config import ConfigError, load
    from phaseray.tables import print_scores

    models = {}
    for item in model:
        key, separator, folder = item.partition("=")
        if item.startswith(("models:/", "runs:/")):
            key, folder = item.partition(":/")[2].strip("/").replace("/", "-"), item
        elif not separator:
            raise ConfigError(
                f"--model reads NAME=FOLDER or a URI such as models:/phaseray-unet@champion, not {item!r}"
            )
        models[key] = folder
    print_scores(run(load(config, overrides), dataset, models, out))


@app.command()
def pipeline(out: Out, config: ConfigFile = None, overrides: Overrides = []) -> None:  # noqa: B006
    """Everything in order: ingest, generate, (with pipeline.tune: tune,) train, evaluate; goes on where it stopped."""
    from phaseray.config import load
    from phaseray.stages import pipeline as run

    run(load(config, overrides), out)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="ingest, generate, train, evaluate or pipeline; then its own options.")],
    address: Annotated[
        str | None, typer.Option(help="http://HOST:8265 of the cluster; without: RAY_API_SERVER_ADDRESS.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Follow the log, and end with the job's own status.")] = True,
    submission_id: Annotated[str | None, typer.Option(help="Name of the job; -2, -3, … when it is sent again.")] = None,
    cpus: Annotated[float | None, typer.Option(min=0, help="Logical CPUs for the command itself.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs for the command itself.")] = None,
    working_dir: Annotated[Path, typer.Option(help="The project's folder, which is sent.")] = Path(),
) -> None:
    """Send a command to a Ray cluster as a job and follow it; sent again, it goes on where it stopped."""
    from phaseray.submit import Request
    from phaseray.submit import submit as run

    out = _checked_job(job, context.args, working_dir)
    request = Request(job, context.args, out, working_dir, address, submission_id, cpus, gpus)
    raise typer.Exit(run(request, follow=follow))


@app.command()
def inspect(
    dataset: Annotated[Path, typer.Argument(help="Folder that generate or ingest wrote.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output folder; without: DATASET/inspect.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """What a catalogue or shards hold: counts, rejections, histograms, and a page with pictures."""
    import json

    from phaseray.inspection import inspect as run
    from phaseray.tables import print_inspection

    summary = run(dataset, _lasting(out) if out else None)
    if as_json:
        typer.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        print_inspection(summary)


@app.command()
def solve(
    reflections: Annotated[Path, typer.Argument(help="SHELX .hkl (its .ins beside it), CIF or FCF, or MTZ.")],
    out: Out,
    formula: Annotated[str | None, typer.Option(help="Such as C6H12O6; none: leave out that of the files.")] = None,
    space_group: Annotated[str | None, typer.Option(help="Symbol or number; without: as the files say.")] = None,
    cell: Annotated[str | None, typer.Option(help='"a b c alpha beta gamma", Å and degrees.')] = None,
    d_min: Annotated[float | None, typer.Option(help="Å; without: that of the data, at best 0.9.")] = None,
    method: Annotated[
        str | None, typer.Option(help="auto, network, hybrid, charge_flipping, rrr or zero; without: auto.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds for the phases; 0: none. Without: 60.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the random phases that it begins with.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """A measured crystal: from its reflections to a map, the atoms in it, and a verdict."""
    from phaseray.config import load
    from phaseray.solving import solve as run
    from phaseray.tables import print_solution

    given = {
        "formula": formula, "space_group": space_group, "d_min": d_min, "method": method, "time_limit": time_limit,
        "cell": None if cell is None else cell.replace(",", " ").split(),
    }  # fmt: skip
    told: dict[str, object] = {f"solve.{key}": value for key, value in given.items() if value is not None}
    if seed is not None:
        told["seed"] = seed
    print_solution(run(load(config, overrides, given=told), reflections, out))


@app.command()
def benchmark_phasing(
    out: Out,
    crystals: Annotated[
        str, typer.Option("--set", help="aflow, shared, measured, or list (the fixed hundred).")
    ] = "aflow",
    d_min: Annotated[list[float], typer.Option(help="Å; may be repeated.")] = [1.5],  # noqa: B006
    methods: Annotated[
        str,
        typer.Option(help="With commas between; network+formula and hybrid+formula are told the crystal's formula."),
    ] = "zero,charge_flipping,network",
    path: Annotated[Path | None, typer.Option(help="Archive or folder of CIFs, or of measured sets.")] = None,
    most: Annotated[int | None, typer.Option("--max", help="Crystals at most, spread over the set.")] = None,
    workers: Annotated[int, typer.Option(help="Processes of one thread each.")] = 2,
    seed: int = 0,
    time_limit: Annotated[float, typer.Option(help="Seconds a method has for a crystal; 0: none.")] = 10.0,
    starts: Annotated[int | None, typer.Option(help="Random beginnings; without: what suits the method.")] = None,
) -> None:
    """Methods of phasing beside each other on crystals whose truth is known: a table, cases.csv, a figure."""
    from phaseray.benchmark_phasing import benchmark, print_benchmark

    chosen = [m.strip() for m in methods.split(",") if m.strip()]
    summary = benchmark(
        crystals, d_min, chosen, out, path=path, most=most, workers=workers, seed=seed,
        time_limit=time_limit or None, starts=starts,
    )  # fmt: skip
    print_benchmark(summary)


def _checked_job(job: str, arguments: list[str], working_dir: Path) -> Path:
    """Everything that can be found wrong here is not sent; the job's output folder."""
    from phaseray.config import ConfigError, load

    if job not in JOBS:
        raise ConfigError(f"no job {job!r}; there are {', '.join(JOBS)}")
    command = typer.main.get_command(app).commands[job]  # type: ignore[attr-defined]
    values = command.make_context(f"phaseray submit {job}", list(arguments)).params
    config = values["config"]
    if config is not None:
        if config.is_absolute() or not (working_dir / config).is_file():
            raise ConfigError(f"--config {config} must be a file in {working_dir.resolve()}, and named from there")
        load(working_dir / config, values["overrides"])
    else:
        load(None, values["overrides"])
    relative = [str(v) for k, v in values.items() if k in ("catalogue", "dataset") and not Path(v).is_absolute()]
    relative += [m for m in values.get("model", []) if not m.partition("=")[2].startswith("/")]
    if relative:
        raise ConfigError(f"a job needs absolute paths, on storage that the cluster sees: {', '.join(relative)}")
    return Path(values["out"])


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from phaseray import __version__

        typer.echo(f"phaseray {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Exit status: 0 done, 1 failed, 2 bad usage or bad config."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    try:
        app(arguments, prog_name="phaseray")
    except SystemExit as end:  # what typer ends with: it has explained bad usage by then
        if end.code == INTERRUPTED:
            print("interrupted; the same command goes on where it stopped", file=sys.stderr)
            return 1
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        return _explain(error)
    return 0


def _explain(error: Exception) -> int:
    from phaseray.config import ConfigError

    if isinstance(error, ValueError | OSError):
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    import traceback

    traceback.print_exception(error)
    return 1
