"""``foedus simulate``: a run with simulated clients in this process, and its folder."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import examples, out_option, parse_overrides, set_option
from foedus.cli.output import emit, json_option
from foedus.cli.simulation import begin, go_on, run
from foedus.domain.errors import UsageError
from foedus.engine.choice import EXECUTORS, KERNELS, Engine
from foedus.engine.results import last_words

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(
    "simulate",
    epilog=examples(
        "foedus simulate run.toml",
        "foedus simulate run.toml --set rounds=5 --set strategy.local.lr=0.05",
        "foedus simulate run.toml --kernel eager --executor workers --json",
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
) -> None:
    """Run RUN.toml with simulated clients; the result is in runs/NAME-TIME, or in --out."""
    asked, changes = Engine(kernel, executor, workers), parse_overrides(overrides)
    if (run_toml is None) == (resume is None):
        raise UsageError("run_or_folder", "Give RUN.toml, or --resume FOLDER.", "", "`foedus simulate RUN.toml`.")
    if resume and (out or force):
        raise UsageError("run_or_folder", "A run that goes on stays in its folder.", "", "Leave --out and --force out.")
    simulation = begin(run_toml, changes, out, force) if run_toml else go_on(resume or Path(), changes)
    summary = run(simulation, asked)
    emit(summary, last_words(summary, simulation.folder.path))
