"""``foedus run webhook``: the events of a run, sent to a URL."""

from __future__ import annotations

import click

from foedus.cli.connection import connected
from foedus.cli.output import emit, json_option, say, table
from foedus.client import webhooks
from foedus.client.http import Connection
from foedus.wire.events import WebhookView


@click.group("webhook")
def command() -> None:
    """Have the events of a run sent to a URL, signed with HMAC-SHA256, in order and at least once."""


@command.command("add")
@click.argument("run")
@click.argument("url")
@json_option
@connected
def add_command(connection: Connection, run: str, url: str) -> None:
    """Send the events of RUN to URL from now on; prints the secret that signs them, this once."""
    made = webhooks.add(connection, run, url)
    emit(made.model_dump(mode="json"), made.secret)
    say(f"webhook {made.id}; whoever has the secret can tell that an event came from here")


@command.command("list")
@click.argument("run")
@json_option
@connected
def list_command(connection: Connection, run: str) -> None:
    """List the webhooks of RUN, and the events that could not be delivered."""
    views = webhooks.listed(connection, run)
    emit({"webhooks": [view.model_dump(mode="json") for view in views]}, _describe(views))


@command.command("retry")
@click.argument("run")
@click.argument("webhook")
@json_option
@connected
def retry_command(connection: Connection, run: str, webhook: str) -> None:
    """Send the dead letters of WEBHOOK of RUN anew."""
    view = webhooks.retry(connection, run, webhook)
    emit(view.model_dump(mode="json"), _describe((view,)))


@command.command("remove")
@click.argument("run")
@click.argument("webhook")
@json_option
@connected
def remove_command(connection: Connection, run: str, webhook: str) -> None:
    """Send nothing more to WEBHOOK of RUN."""
    view = webhooks.remove(connection, run, webhook)
    emit(view.model_dump(mode="json"), f"removed {view.id}")


def _describe(views: tuple[WebhookView, ...]) -> str:
    if not views:
        return "The run has no webhook."
    rows = [[view.id, view.delivered, view.pending, len(view.dead), view.url] for view in views]
    letters = [
        f"{view.id}: event {one.event} ({one.kind}) is a dead letter after {one.attempts} tries: {one.error}"
        for view in views
        for one in view.dead
    ]
    return "\n".join([table(["webhook", "delivered", "pending", "dead", "url"], rows), *letters])
