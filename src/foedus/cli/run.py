"""``foedus run``: live runs, as a researcher sees and ends them; to submit and to watch are modules of their own."""

from __future__ import annotations

import click

from foedus.cli.connection import connected
from foedus.cli.lazy import LazyGroup
from foedus.cli.output import emit, json_option, table
from foedus.client import runs
from foedus.client.http import Connection
from foedus.wire.messages import RunView

LAZY = {
    "submit": ("foedus.cli.run_submit", "Submit a run, and follow it if you like."),
    "create": ("foedus.cli.run_create", "Submit a run as a draft, which rests until it is started."),
    "align": ("foedus.cli.run_align", "Wait for the columns of the clients' tables, and begin a run made for them."),
    "watch": ("foedus.cli.run_watch", "Follow a run to its end, and keep its folder."),
    "history": ("foedus.cli.run_history", "Show how the work of a run's clients went, step by step."),
    "lineage": ("foedus.cli.run_lineage", "Show where a model of a run comes from."),
    "updates": ("foedus.cli.run_updates", "List the clients' updates of a round, and download those that are kept."),
    "webhook": ("foedus.cli.run_webhook", "Have the events of a run sent to a URL."),
    "replay": ("foedus.cli.run_replay", "Replay what a live run heard in a simulation, and compare the models."),
    "compare": ("foedus.cli.run_compare", "Compare runs, live or simulated, by their folders."),
    "plot": ("foedus.cli.run_plot", "Draw a run's curves as a picture."),
}


@click.group("run", cls=LazyGroup, lazy=LAZY)
def command() -> None:
    """Submit, follow, steer and list live runs; compare and plot the folders of any."""


@command.command("list")
@json_option
@connected
def list_command(connection: Connection) -> None:
    """List every run, the newest first."""
    views = runs.list_runs(connection)
    rows = [
        [v.id, v.name, v.status, f"{v.round}/{v.rounds}", v.strategy, f"{v.created_at:%Y-%m-%d %H:%M}"] for v in views
    ]
    text = table(["id", "name", "status", "round", "strategy", "created"], rows) if rows else "There is no run yet."
    emit({"runs": [view.model_dump(mode="json") for view in views]}, text)


@command.command("show")
@click.argument("run")
@json_option
@connected
def show_command(connection: Connection, run: str) -> None:
    """Show RUN: where it is, its clients, and who waits for whom."""
    _tell(runs.show(connection, run))


@command.command("start")
@click.argument("run")
@json_option
@connected
def start_command(connection: Connection, run: str) -> None:
    """Let RUN, a draft, begin."""
    _tell(runs.start(connection, run))


@command.command("pause")
@click.argument("run")
@json_option
@connected
def pause_command(connection: Connection, run: str) -> None:
    """Let RUN rest: nodes stop working for it, and what they have contributed stays."""
    _tell(runs.pause(connection, run))


@command.command("resume")
@click.argument("run")
@json_option
@connected
def resume_command(connection: Connection, run: str) -> None:
    """Let RUN, which was paused, go on from where it was."""
    _tell(runs.resume(connection, run))


@command.command("retry")
@click.argument("run")
@json_option
@connected
def retry_command(connection: Connection, run: str) -> None:
    """Let RUN, which failed, go on from where it was."""
    _tell(runs.retry(connection, run))


@command.command("cancel")
@click.argument("run")
@json_option
@connected
def cancel_command(connection: Connection, run: str) -> None:
    """End RUN before its time, for good; its models stay."""
    _tell(runs.cancel(connection, run))


def _tell(view: RunView) -> None:
    emit(view.model_dump(mode="json"), describe(view))


def describe(view: RunView) -> str:
    """A run, its clients, and who waits for whom, in words."""
    reason = f": {view.reason}" if view.reason not in ("", view.status) else ""
    lines = [
        f"run     {view.id}  {view.name}  {view.status}{reason}",
        ", ".join(filter(None, (f"round   {view.round}/{view.rounds}", view.phase, view.stage))),
        f"plan    {view.plan}",
        f"model   {view.model_digest}",
    ]
    if view.metrics:
        lines.append("metrics " + "  ".join(f"{name} {value:.4f}" for name, value in view.metrics.items()))
    lines += [f"alert   {alert}" for alert in view.alerts]
    if view.waiting_for:
        lines.append(f"waiting {view.waiting_for}")
    rows = [[client.client, client.node, client.status, client.note] for client in view.clients]
    return "\n".join([*lines, *(["", table(["client", "node", "status", "note"], rows)] if rows else [])])
