"""``foedus coordinator user``: who there is, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import click

from foedus.cli.connection import connected
from foedus.cli.output import emit, json_option, table
from foedus.client.admin import change_user, create_user, list_orgs, list_users
from foedus.client.http import ID, Connection
from foedus.domain.errors import NotFoundError
from foedus.wire.people import ChangeUser, Role, UserView

role_option = click.option(
    "--role", "roles", type=click.Choice(get_args(Role)), multiple=True, help="A role; more than one may be given."
)


@click.group("user")
def command() -> None:
    """Users: people with roles in an organisation."""


@command.command("create")
@click.argument("name")
@role_option
@click.option("--org", metavar="ORG", help="An organisation's id or name (default: yours).")
@json_option
@connected
def create(connection: Connection, name: str, roles: tuple[Role, ...], org: str | None) -> None:
    """Make a user NAME, a researcher unless --role says otherwise; prints the user's id."""
    made = create_user(connection, name, roles or ("researcher",), _org(connection, org))
    emit(made.model_dump(mode="json"), made.id)


@command.command("list")
@json_option
@connected
def listing(connection: Connection) -> None:
    """List the users that you may see."""
    views = list_users(connection)
    emit({"users": [view.model_dump(mode="json") for view in views]}, _table(views))


@command.command("change")
@click.argument("user")
@role_option
@click.option("--disable/--enable", "disabled", default=None, help="Refuse the user's tokens, or take them again.")
@json_option
@connected
def change(connection: Connection, user: str, roles: tuple[Role, ...], disabled: bool | None) -> None:
    """Give USER (an id or a name) other roles, or disable or enable them."""
    changed = change_user(connection, user_id(connection, user), ChangeUser(roles=roles or None, disabled=disabled))
    emit(changed.model_dump(mode="json"), _table([changed]))


def user_id(connection: Connection, user: str) -> str:
    """The id of a user who is named by id or name.

    Raises:
        NotFoundError: ``user_unknown``.
    """
    if ID.fullmatch(user):
        return user
    found = next((view.id for view in list_users(connection) if view.name == user), None)
    if found is None:
        raise NotFoundError("user_unknown", f"There is no user {user}.", "", "`foedus coordinator user list`.")
    return found


def _org(connection: Connection, org: str | None) -> str | None:
    if org is None or ID.fullmatch(org):
        return org
    found = next((view.id for view in list_orgs(connection) if view.name == org), None)
    if found is None:
        raise NotFoundError("org_unknown", f"There is no organisation {org}.", "", "`foedus coordinator org list`.")
    return found


def _table(views: Sequence[UserView]) -> str:
    rows = [
        [view.id, view.name, view.org, ", ".join(view.roles), "disabled" if view.disabled else "active"]
        for view in views
    ]
    return table(["id", "name", "organisation", "roles", "status"], rows)
