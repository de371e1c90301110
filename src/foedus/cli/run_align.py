"""``foedus run align``: wait for the schemas of a run's clients, and begin it with the initial parameters made here."""

from __future__ import annotations

import time
from pathlib import Path

import click

from foedus.cli.connection import connected
from foedus.cli.live import LOOK
from foedus.cli.options import examples, run_argument
from foedus.cli.output import emit, json_option, say
from foedus.cli.run import describe
from foedus.client import runs
from foedus.client.http import Connection
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import ConflictError
from foedus.domain.lifecycle import ENDED, RunStatus
from foedus.domain.plan import read_bundle
from foedus.domain.run import parse_spec, run_file
from foedus.engine.prepare import Prepared, prepare_spec
from foedus.wire.messages import RunView


@click.command("align", epilog=examples("foedus run align run_0123456789ab run.toml"))
@click.argument("run")
@run_argument
@json_option
@connected
def command(connection: Connection, run: str, run_toml: Path) -> None:
    """Wait until the tables of RUN's clients are aligned, and begin it: with the plan of RUN.toml, made for them.

    What `foedus run submit` does by itself, for a run that it left waiting, or that `foedus run create` made.
    """
    prepared = begin_aligned(connection, run, run_file(run_toml).parent)
    view = runs.show(connection, run)
    columns = [] if prepared is None or prepared.alignment is None else sorted(prepared.alignment.plan.columns)
    emit(view.model_dump(mode="json") | {"columns": columns}, view.id)
    say(f"{describe(view)}\nNext: foedus run watch {view.id}")


def begin_aligned(connection: Connection, run: str, base: Path) -> Prepared | None:
    """Wait for the schemas, compute the initial parameters, send them; nothing where the run has its own already.

    Raises:
        ConflictError: ``plan_differs`` where the plan here is not the run's; ``run_state`` where the run has ended.
    """
    view = runs.show(connection, run)
    spec = parse_spec(view.spec)
    here = read_bundle(base / spec.plan).digest
    if here != view.plan:
        raise ConflictError(
            "plan_differs",
            f"The plan here is not that of run {run}.",
            f"It is {here[:12]}, and the run's is {view.plan[:12]}.",
            "Use the plan that the run was submitted with, or submit it anew.",
        )
    view = _aligned(connection, view)
    if view.model_digest:
        say(f"run {run} has its initial parameters")
        return None
    prepared = prepare_spec(spec, base, runs.alignment_of(connection, view))
    runs.give_parameters(connection, run, encode_tensors(prepared.model), prepared.manifest)
    inputs = len(prepared.alignment.plan.columns) - 1 if prepared.alignment else 0
    say(f"aligned: {inputs} inputs; the initial parameters are sent")
    return prepared


def _aligned(connection: Connection, view: RunView) -> RunView:
    """The run, once the schemas that it waits for are known; says who is waited for."""
    said = ""
    try:
        while not view.alignment and not view.model_digest:
            if view.status in ENDED:
                raise ConflictError("run_state", f"Run {view.id} is {view.status}.", view.reason, _fix(view))
            if view.waiting_for != said:
                said = view.waiting_for
                say(f"waiting for the columns of tables: {said}" if said else "waiting for the columns of tables")
            time.sleep(LOOK)
            view = runs.show(connection, view.id)
    except KeyboardInterrupt:
        say(f"The run waits. `foedus run align {view.id} RUN.toml` goes on, `foedus run cancel {view.id}` ends it.")
        raise
    return view


def _fix(view: RunView) -> str:
    if view.status != RunStatus.FAILED:
        return "Submit a new one."
    return (
        f"Mend it, and ask for the columns anew: `foedus run retry {view.id}`, `foedus run align {view.id} RUN.toml`."
    )
