"""``foedus simulate``: a run with simulated clients in this process, and its folder."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import examples, out_option, parse_overrides, set_option
from foedus.cli.output import emit, json_option, say
from foedus.cli.simulation import begin, go_on, run
from foedus.cli.sweep import Sweep, begin_sweep, is_sweep, read_sweep, run_sweep, sweep_folder, told
from foedus.domain.errors import UsageError
from foedus.engine.choice import EXECUTORS, KERNELS, Engine
from foedus.engine.results import last_words
from foedus.engine.simulate import Tools
from foedus.engine.sweep import parse_options

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(
    "simulate",
    epilog=examples(
        "foedus simulate run.toml",
        "foedus simulate run.toml --set rounds=5 --set strategy.local.lr=0.05",
        "foedus simulate run.toml --kernel eager --executor workers --json",
        "foedus simulate run.toml --sweep strategy.local.lr=0.01,0.1 --seeds 5",
        "foedus simulate --resume runs/digits-20260102T030405Z --set rounds=40",
    ),
)
@click.argument("run_toml", metavar="RUN.toml", type=click.Path(path_type=Path), required=False)
@click.option("--kernel", type=click.Choice(KERNELS), default="auto", show_default=True, help="How steps are computed.")
@click.option("--executor", type=click.Choice(EXECUTORS), default="auto", show_default=True, help="Where.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes (default: one per core).")
@set_option
@out_option
@click.option("--force", is_flag=True, help="Replace the run that --out holds.")
@click.option("--resume", metavar="FOLDER", type=FOLDER, help="Go on with the run in FOLDER after its last checkpoint.")
@click.option(
    "--sweep", "sweeps", metavar="KEY=V1,V2", multiple=True, help="A run for each value; several: each with each."
)
@click.option(
    "--seeds", type=click.IntRange(min=1, max=1000), help="Run each setting with so many seeds, from `seed` up."
)
@click.option("--debug", is_flag=True, help="Say what clients that fail were doing, with the plan's lines.")
@json_option
def command(
    run_toml: Path | None,
    kernel: str,
    executor: str,
    workers: int | None,
    overrides: tuple[str, ...],
    out: Path | None,
    force: bool,
    resume: Path | None,
    sweeps: tuple[str, ...],
    seeds: int | None,
    debug: bool,
) -> None:
    """Run RUN.toml with simulated clients; the result is in runs/NAME-TIME, or in --out."""
    asked, changes = Engine(kernel, executor, workers), parse_overrides(overrides)
    if (run_toml is None) == (resume is None):
        raise UsageError("run_or_folder", "Give RUN.toml, or --resume FOLDER.", "", "`foedus simulate RUN.toml`.")
    if resume and (out or force or sweeps or seeds):
        why = "Leave --out, --force, --sweep and --seeds out."
        raise UsageError("run_or_folder", "What goes on stays in its folder, and is what it was.", "", why)
    if run_toml and (sweeps or seeds):
        sweep = begin_sweep(run_toml, changes, parse_options(sweeps), seeds or 1)
        return sweep_in(sweep, sweep_folder(sweep, out), asked)
    if resume and is_sweep(resume):
        return sweep_in(read_sweep(resume), resume, asked)
    simulation = begin(run_toml, changes, out, force) if run_toml else go_on(resume or Path(), changes)
    summary = run(simulation, asked, Tools(say if debug else None))
    emit(summary, last_words(summary, simulation.folder.path))


def sweep_in(sweep: Sweep, folder: Path, asked: Engine) -> None:
    """Run what is left of a sweep, and show what its settings came to."""
    summary = run_sweep(sweep, folder, asked)
    emit(summary, told(summary, folder), exit_code=1 if summary["failed"] else 0)
