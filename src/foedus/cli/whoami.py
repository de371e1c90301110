"""``foedus whoami``: who you are to the coordinator."""

from __future__ import annotations

import click

from foedus.cli.connection import connected
from foedus.cli.output import emit, json_option
from foedus.client.http import Connection
from foedus.client.login import whoami


@click.command("whoami")
@json_option
@connected
def command(connection: Connection) -> None:
    """Show who your token is of, and what you may be."""
    found = whoami(connection)
    where = f" of {found.organisation}" if found.organisation else ""
    emit(found.model_dump(mode="json"), f"{found.name}{where}: {found.role}")
