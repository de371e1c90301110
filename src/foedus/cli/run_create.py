"""``foedus run create``: a draft of a run, which `foedus run start` lets begin."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.connection import connected
from foedus.cli.options import examples, parse_overrides, run_argument, set_option
from foedus.cli.output import emit, json_option, say
from foedus.cli.run import describe
from foedus.cli.run_submit import NOTE, submission_of, submitted
from foedus.client import runs
from foedus.client.http import Connection
from foedus.domain.run import run_file
from foedus.engine.prepare import prepare_spec, read_spec


@click.command("create", epilog=examples("foedus run create run.toml", "foedus run start RUN"))
@run_argument
@set_option
@json_option
@connected
def command(connection: Connection, run_toml: Path, overrides: tuple[str, ...]) -> None:
    """Submit RUN.toml as a draft: its plan and initial parameters are kept, and nobody is asked before it is started.

    Its owner may still look at it, or have its events sent somewhere, before the first one.
    """
    spec, base = read_spec(run_toml, parse_overrides(overrides)), run_file(run_toml).parent
    asks = spec.data.asks_sites
    submission = submitted(spec, base) if asks else submission_of(prepare_spec(spec, base))
    view = runs.submit(connection, submission, draft=True)
    say(NOTE)
    emit(view.model_dump(mode="json"), view.id)
    align = f", and foedus run align {view.id} {run_toml}" if asks else ""
    say(f"{describe(view)}\nNext: foedus run start {view.id}{align}")
