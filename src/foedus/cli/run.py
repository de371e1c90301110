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
    "watch": ("foedus.cli.run_watch", "Follow a run to its end, and keep its folder."),
    "compare": ("foedus.cli.run_compare", "Compare runs, live or simulated, by their folders."),
    "plot": ("foedus.cli.run_plot", "Draw a run's curves as a picture."),
}


@click.group("run", cls=LazyGroup, lazy=LAZY)
def command() -> None:
    """Submit, list, show, watch, cancel and resume live runs; compare and plot the folders of any."""


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
    view = runs.show(connection, run)
    emit(view.model_dump(mode="json"), describe(view))


@command.command("cancel")
@click.argument("run")
@json_option
@connected
def cancel_command(connection: Connection, run: str) -> None:
    """End RUN before its time; what it has learned stays."""
    view = runs.cancel(connection, run)
    emit(view.model_dump(mode="json"), describe(view))


@command.command("resume")
@click.argument("run")
@json_option
@connected
def resume_command(connection: Connection, run: str) -> None:
    """Let RUN, which failed or was cancelled, go on from its last round."""
    view = runs.resume(connection, run)
    emit(view.model_dump(mode="json"), describe(view))


def describe(view: RunView) -> str:
    """A run, its clients, and who waits for whom, in words."""
    reason = f": {view.reason}" if view.reason not in ("", view.status) else ""
    lines = [
        f"run     {view.id}  {view.name}  {view.status}{reason}",
        f"round   {view.round}/{view.rounds}{f', {view.phase}' if view.phase else ''}",
        f"plan    {view.plan}",
        f"model   {view.model_digest}",
    ]
    if view.metrics:
        lines.append("metrics " + "  ".join(f"{name} {value:.4f}" for name, value in view.metrics.items()))
    if view.waiting_for:
        lines.append(f"waiting {view.waiting_for}")
    rows = [[client.client, client.node, client.status, client.note] for client in view.clients]
    return "\n".join([*lines, *(["", table(["client", "node", "status", "note"], rows)] if rows else [])])
