"""``foedus logout``: the token of a login ends, here and at the coordinator."""

from __future__ import annotations

import click

from foedus.cli.connection import connected
from foedus.cli.kept_tokens import forget_token
from foedus.cli.output import emit, json_option
from foedus.client.http import Connection
from foedus.client.login import log_out


@click.command("logout")
@json_option
@connected
def command(connection: Connection) -> None:
    """End the token that you use: the coordinator refuses it from now on."""
    gone = log_out(connection)
    forget_token(connection.url)
    emit({"name": gone.name}, f"{gone.name} is logged out of {connection.url}")
