"""``foedus run replay``: a live run's recorded events, replayed here; the models have to be the same, bit for bit."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.connection import connected
from foedus.cli.options import examples, run_argument
from foedus.cli.output import emit, json_option
from foedus.client import runs
from foedus.client.http import Connection
from foedus.client.recording import recording
from foedus.domain.errors import DataError
from foedus.domain.run import parse_spec, run_file
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare_spec
from foedus.engine.replay import replay


@click.command("replay", epilog=examples("foedus run replay run_0123456789ab run.toml"))
@click.argument("run")
@run_argument
@json_option
@connected
def command(connection: Connection, run: str, run_toml: Path) -> None:
    """Replay what RUN heard in a simulation, with the plan and the data of RUN.toml, and compare the models.

    Every schedule, also one that goes by who answers first, then gives the model that the live run has.
    """
    view = runs.show(connection, run)
    prepared = prepare_spec(parse_spec(view.spec), run_file(run_toml).parent, runs.alignment_of(connection, view))
    if prepared.bundle.digest != view.plan:
        raise DataError(
            "replay_differs",
            "The recorded run cannot be replayed here.",
            f"The plan here is {prepared.bundle.digest[:12]}, and the run's {view.plan[:12]}.",
            "Use the plan of the run.",
        )
    listed = runs.rounds(connection, run).rounds
    again = replay(prepared, recording(connection, run, view.round), Engine("eager", "inline"))
    other = [live.round for live, here in zip(listed, again.rounds, strict=True) if live.model != here.model]
    found = {"run": run, "rounds": view.round, "model": view.model_digest, "replayed": again.model_digest}
    if other:
        raise DataError(
            "replay_differs",
            f"The models differ from round {other[0]} on.",
            f"Live it came to {view.model_digest[:12]}, and here to {again.model_digest[:12]}.",
            "Use the data and the plan of the run, with the same build of torch on the same kind of processor.",
        )
    emit({**found, "same": True}, f"{view.round} rounds replayed; every model is the same: {view.model_digest}")
