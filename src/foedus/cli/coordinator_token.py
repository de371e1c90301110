"""``foedus coordinator token``: the API tokens with which people and their programs speak to the coordinator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click

from foedus.cli.connection import connected
from foedus.cli.coordinator_user import user_id
from foedus.cli.lazy import LazyGroup
from foedus.cli.output import emit, json_option, say, table
from foedus.client.admin import create_token, list_tokens, revoke_token, rotate_token
from foedus.client.http import Connection
from foedus.wire.people import OVERLAP_SECONDS, TOKEN_DAYS, Token, TokenView

days_option = click.option(
    "--days", type=click.FloatRange(0, 366, min_open=True), default=TOKEN_DAYS, show_default=True, help="Its life."
)


LAZY = {"recover": ("foedus.cli.coordinator_recover", "Make a token on the coordinator's own machine.")}


@click.group("token", cls=LazyGroup, lazy=LAZY)
def command() -> None:
    """API tokens of people."""


@command.command("create")
@click.argument("name")
@click.option("--user", metavar="USER", help="Whose it is, by id or name (default: yours).")
@click.option("--action", "actions", metavar="ACTION", multiple=True, help="Narrow it to this, as runs.read.")
@days_option
@json_option
@connected
def create(connection: Connection, name: str, user: str | None, actions: tuple[str, ...], days: float) -> None:
    """Make an API token called NAME; it is shown this once."""
    whose = user_id(connection, user) if user else None
    show_token(create_token(connection, name, whose, actions, days), connection.url)


@command.command("list")
@json_option
@connected
def listing(connection: Connection) -> None:
    """List the tokens that you may see, without their secrets."""
    views = list_tokens(connection)
    emit({"tokens": [view.model_dump(mode="json") for view in views]}, _table(views))


@command.command("rotate")
@click.argument("token_id", metavar="ID")
@click.option(
    "--overlap",
    type=click.FloatRange(0, 86400),
    default=OVERLAP_SECONDS,
    show_default=True,
    help="Seconds for which the old one is still taken.",
)
@days_option
@json_option
@connected
def rotate(connection: Connection, token_id: str, overlap: float, days: float) -> None:
    """Make a successor of the token ID; it is shown this once."""
    show_token(rotate_token(connection, token_id, overlap, days), connection.url)


@command.command("revoke")
@click.argument("token_id", metavar="ID")
@json_option
@connected
def revoke(connection: Connection, token_id: str) -> None:
    """Refuse the token ID from now on."""
    view = revoke_token(connection, token_id)
    emit(view.model_dump(mode="json"), _table([view]))


def show_token(made: Token, url: str) -> None:
    """Print a token's secret, and how to use it."""
    emit(made.model_dump(mode="json"), made.token)
    say(f"For {made.user} ({', '.join(made.roles)}), until {_day(made.expires_at)}; it is not shown again. Use it as:")
    say(f"  export FOEDUS_COORDINATOR={url} FOEDUS_TOKEN={made.token}")


def _day(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _table(views: Sequence[TokenView]) -> str:
    rows = [
        [
            view.id,
            view.user,
            view.name,
            view.kind,
            ", ".join(view.actions) or "all",
            _day(view.expires_at),
            _day(view.used_at),
            "revoked" if view.revoked else "active",
        ]
        for view in views
    ]
    return table(["id", "user", "name", "kind", "actions", "expires (UTC)", "used (UTC)", "status"], rows)
