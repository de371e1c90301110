"""``foedus simulate``: a run with simulated clients in this process, and its folder.

What is wrong in the call or in run.toml is refused before torch is loaded: the work is in a module of its own.
"""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import How, examples, out_option, parse_overrides, parse_sweep, set_option
from foedus.cli.output import json_option
from foedus.data.names import check_source
from foedus.domain.computing import DEVICES, EXECUTORS, KERNELS
from foedus.domain.errors import UsageError
from foedus.domain.modules import load
from foedus.domain.run import read_run

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(
    "simulate",
    epilog=examples(
        "foedus simulate run.toml",
        "foedus simulate run.toml --set rounds=5 --set strategy.local.lr=0.05",
        "foedus simulate run.toml --kernel eager --executor workers --json",
        "foedus simulate run.toml --sweep strategy.local.lr=0.01,0.1 --seeds 5",
        "foedus simulate --resume runs/digits-20260102T030405Z --set rounds=40",
        "foedus simulate --repeat runs/digits-20260102T030405Z --out runs/again",
    ),
)
@click.argument("run_toml", metavar="RUN.toml", type=click.Path(path_type=Path), required=False)
@click.option("--kernel", type=click.Choice(KERNELS), default="auto", show_default=True, help="How steps are computed.")
@click.option("--executor", type=click.Choice(EXECUTORS), default="auto", show_default=True, help="Where.")
@click.option("--device", type=click.Choice(DEVICES), default="cpu", show_default=True, help="What computes.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes (default: one per core).")
@set_option
@out_option
@click.option("--force", is_flag=True, help="Replace the run that --out holds.")
@click.option("--resume", metavar="FOLDER", type=FOLDER, help="Go on with the run in FOLDER after its last checkpoint.")
@click.option("--repeat", metavar="FOLDER", type=FOLDER, help="Run what FOLDER holds once more, computed as it was.")
@click.option(
    "--sweep", "sweeps", metavar="KEY=V1,V2", multiple=True, help="A run for each value; several: each with each."
)
@click.option(
    "--seeds", type=click.IntRange(min=1, max=1000), help="Run each setting with so many seeds, from `seed` up."
)
@click.option("--debug", is_flag=True, help="Say what clients that fail were doing, with the plan's lines.")
@click.option("--profile", is_flag=True, help="Say where the rounds' time went.")
@json_option
def command(
    run_toml: Path | None,
    kernel: str,
    executor: str,
    device: str,
    workers: int | None,
    overrides: tuple[str, ...],
    out: Path | None,
    force: bool,
    resume: Path | None,
    repeat: Path | None,
    sweeps: tuple[str, ...],
    seeds: int | None,
    debug: bool,
    profile: bool,
) -> None:
    """Run RUN.toml with simulated clients; the result is in runs/NAME-TIME, or in --out."""
    changes = parse_overrides(overrides)
    if sum(given is not None for given in (run_toml, resume, repeat)) != 1:
        fix = "`foedus simulate RUN.toml`."
        raise UsageError("run_or_folder", "Give RUN.toml, or --resume FOLDER, or --repeat FOLDER.", "", fix)
    if resume and (out or force or sweeps or seeds):
        why = "Leave --out, --force, --sweep and --seeds out."
        raise UsageError("run_or_folder", "What goes on stays in its folder, and is what it was.", "", why)
    if repeat and (sweeps or seeds):
        raise UsageError("run_or_folder", "What is repeated is what it was.", "", "Leave --sweep and --seeds out.")
    if run_toml:
        check_source(read_run(run_toml, changes).data.name)
    settings = parse_sweep(sweeps)
    how = How(kernel, executor, workers, device, debug, profile)
    work = load("foedus.cli.simulate_run")
    if run_toml and (sweeps or seeds):
        work.sweep(run_toml, changes, (settings, seeds or 1), out, how)
    elif run_toml:
        work.begin_and_run(run_toml, changes, (out, force), how)
    elif repeat:
        work.repeat_and_run(repeat, changes, (out, force), how)
    else:
        work.go_on_in(resume, changes, how)
