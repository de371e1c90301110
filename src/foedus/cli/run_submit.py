"""``foedus run submit``: send a run's plan and initial parameters to the coordinator."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.connection import connected
from foedus.cli.options import examples, out_option, parse_overrides, run_argument, set_option
from foedus.cli.output import emit, json_option, say
from foedus.cli.run import describe
from foedus.cli.run_watch import watch_and_tell
from foedus.client import runs
from foedus.client.http import Connection
from foedus.client.runs import Submission
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import ConfigError
from foedus.domain.track import TrackTable
from foedus.engine.prepare import Prepared, prepare
from foedus.wire.plan_signature import read_signature

NOTE = "Of [data] only `tags` counts live: name, folder and partition stay here. Nodes find their own data."


@click.command("submit", epilog=examples("foedus run submit run.toml --watch"))
@run_argument
@click.option("--watch", "follow", is_flag=True, help="Follow it to its end, and keep its folder.")
@set_option
@out_option
@json_option
@connected
def command(connection: Connection, run_toml: Path, follow: bool, overrides: tuple[str, ...], out: Path | None) -> None:
    """Submit RUN.toml: its plan and the initial parameters, computed here, go to the coordinator."""
    prepared = prepare(run_toml, parse_overrides(overrides))
    say(NOTE)
    view = runs.submit(connection, submission_of(prepared))
    if follow:
        say(f"run {view.id}, plan {view.plan}")
        watch_and_tell(connection, view.id, out, prepared)
    else:
        emit(view.model_dump(mode="json"), view.id)
        say(f"{describe(view)}\nNext: foedus run watch {view.id}")


def submission_of(prepared: Prepared) -> Submission:
    """What a run that was prepared sends to the coordinator; the table [track] stays here.

    Raises:
        ConfigError: ``stop_refused`` where the run would stop by what only a simulation measures.
        AccessError: ``proof_refused`` where the plan was changed after it was signed.
    """
    stop = prepared.spec.stop
    if stop is not None and stop.metric.startswith("central/"):
        raise ConfigError(
            "stop_refused",
            f"`stop.metric` is `{stop.metric}`, which a live run does not measure.",
            "The coordinator never sees data, and never runs a plan.",
            f"Use test/{stop.metric.partition('/')[2]}.",
        )
    spec = prepared.spec.model_copy(update={"track": TrackTable()})
    signed = read_signature(prepared.base / prepared.spec.plan, prepared.bundle.digest)
    return Submission(spec, prepared.bundle, encode_tensors(prepared.model), prepared.manifest, signed)
