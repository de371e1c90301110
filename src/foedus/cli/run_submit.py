"""``foedus run submit``: send a run's plan and initial parameters to the coordinator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from foedus.cli.connection import connected
from foedus.cli.options import examples, out_option, parse_overrides, run_argument, set_option
from foedus.cli.output import emit, json_option, say
from foedus.cli.run import describe
from foedus.cli.run_align import begin_aligned
from foedus.cli.run_watch import watch_and_tell
from foedus.client import runs
from foedus.client.http import Connection
from foedus.client.runs import Submission
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import ConfigError
from foedus.domain.plan import PlanBundle, read_bundle
from foedus.domain.run import RunSpec, run_file
from foedus.domain.track import TrackTable
from foedus.engine.prepare import Prepared, prepare_spec, read_spec
from foedus.local.kinds import load_plan
from foedus.wire.plan_signature import read_signature

NOTE = "Of [data] only `tags` counts live, and how tables are aligned: name, folder and partition stay here."


@click.command("submit", epilog=examples("foedus run submit run.toml --watch"))
@run_argument
@click.option("--watch", "follow", is_flag=True, help="Follow it to its end, and keep its folder.")
@set_option
@out_option
@json_option
@connected
def command(connection: Connection, run_toml: Path, follow: bool, overrides: tuple[str, ...], out: Path | None) -> None:
    """Submit RUN.toml: its plan and the initial parameters, computed here, go to the coordinator.

    Where [data.align] asks clients for the columns of their tables, the run waits for these before.
    """
    spec, base = read_spec(run_toml, parse_overrides(overrides)), run_file(run_toml).parent
    prepared = None if spec.data.asks_sites else prepare_spec(spec, base)
    say(NOTE)
    view = runs.submit(connection, submitted(spec, base) if prepared is None else submission_of(prepared))
    if follow or prepared is None:
        say(f"run {view.id}, plan {view.plan}")
    if prepared is None:
        prepared = begin_aligned(connection, view.id, base)
        view = runs.show(connection, view.id)
    if follow:
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
    submission = submitted(prepared.spec, prepared.base, prepared.bundle)
    parameters = encode_tensors(prepared.model)
    return replace(submission, parameters=parameters, manifest=prepared.manifest, alignment=prepared.alignment)


def submitted(spec: RunSpec, base: Path, bundle: PlanBundle | None = None) -> Submission:
    """As :func:`submission_of`, of a run whose model is made when its clients' tables are aligned.

    Raises:
        ConfigError, AccessError: as there. PlanError: where the plan does not import.
    """
    stop = spec.stop
    if stop is not None and stop.metric.startswith("central/"):
        raise ConfigError(
            "stop_refused",
            f"`stop.metric` is `{stop.metric}`, which a live run does not measure.",
            "The coordinator never sees data, and never runs a plan.",
            f"Use test/{stop.metric.partition('/')[2]}.",
        )
    if bundle is None:
        bundle = read_bundle(base / spec.plan)
        load_plan(bundle)
    signed = read_signature(base / spec.plan, bundle.digest)
    return Submission(spec.model_copy(update={"track": TrackTable()}), bundle, None, None, signed)
