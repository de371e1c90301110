"""``foedus simulate``: a run with simulated clients in this process, and its folder."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from foedus.cli.options import examples, out_option, parse_overrides, run_argument, set_option
from foedus.cli.output import emit, json_option, say
from foedus.cli.progress import progress
from foedus.engine.choice import EXECUTORS, KERNELS, Engine
from foedus.engine.folder import RunFolder, choose_folder
from foedus.engine.keeping import Keeping
from foedus.engine.prepare import prepare
from foedus.engine.results import Outcome, close_folder, last_words, recorded, run_name
from foedus.engine.simulate import simulate


@click.command(
    "simulate",
    epilog=examples(
        "foedus simulate run.toml",
        "foedus simulate run.toml --set rounds=5 --set strategy.local.lr=0.05",
        "foedus simulate run.toml --kernel eager --executor workers --json",
    ),
)
@run_argument
@click.option("--kernel", type=click.Choice(KERNELS), default="auto", show_default=True, help="How steps are computed.")
@click.option("--executor", type=click.Choice(EXECUTORS), default="auto", show_default=True, help="Where.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes (default: one per core).")
@set_option
@out_option
@click.option("--force", is_flag=True, help="Replace the run that --out holds.")
@json_option
def command(
    run_toml: Path,
    kernel: str,
    executor: str,
    workers: int | None,
    overrides: tuple[str, ...],
    out: Path | None,
    force: bool,
) -> None:
    """Run RUN.toml with simulated clients; the result is in runs/NAME-TIME, or in --out."""
    prepared = prepare(run_toml, parse_overrides(overrides))
    name = run_name(prepared.spec, run_toml)
    folder = RunFolder(choose_folder(out, name, datetime.now(UTC), force=force), prepared.spec, prepared.bundle)
    with recorded(folder, prepared.spec, name):
        with progress(prepared.spec.rounds) as observer:
            keeping = Keeping(folder, prepared.spec.checkpoint)
            result = simulate(prepared, Engine(kernel, executor, workers), [folder, observer], keeping)
        say(result.choice.reason)
        choice = asdict(result.choice)
        facts = {name: choice[name] for name in ("kernel", "executor", "workers", "reason")}
        outcome = Outcome(name, "completed", result.model_digest, result.seconds, result.held_out, facts)
        summary = close_folder(folder, prepared.spec, outcome)
    emit(summary, last_words(summary, folder.path))
