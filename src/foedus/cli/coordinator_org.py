"""``foedus coordinator org``: organisations."""

from __future__ import annotations

from collections.abc import Sequence

import click

from foedus.cli.connection import connected
from foedus.cli.output import emit, json_option, table
from foedus.client.admin import create_org, list_orgs
from foedus.client.http import Connection
from foedus.wire.people import OrgView


@click.group("org")
def command() -> None:
    """Organisations: whom users, runs and nodes belong to."""


@command.command("create")
@click.argument("name")
@json_option
@connected
def create(connection: Connection, name: str) -> None:
    """Make an organisation NAME; prints its id."""
    made = create_org(connection, name)
    emit(made.model_dump(mode="json"), made.id)


@command.command("list")
@json_option
@connected
def listing(connection: Connection) -> None:
    """List the organisations that you may see."""
    views = list_orgs(connection)
    emit({"orgs": [view.model_dump(mode="json") for view in views]}, _table(views))


def _table(views: Sequence[OrgView]) -> str:
    rows = [[view.id, view.name, "runs the coordinator" if view.operates else ""] for view in views]
    return table(["id", "name", ""], rows)
