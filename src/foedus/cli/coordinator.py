"""``foedus coordinator``: what who runs a coordinator does; to start one is a module of its own."""

from __future__ import annotations

import click

from foedus.cli.connection import connected
from foedus.cli.lazy import LazyGroup
from foedus.cli.output import emit, json_option, say, table
from foedus.client.admin import create_join_token, list_nodes, revoke_node
from foedus.client.http import Connection
from foedus.wire.messages import NodeView

LAZY = {
    "backup": ("foedus.cli.coordinator_backup", "Write a backup of database and blobs."),
    "check": ("foedus.cli.coordinator_check", "Whether all that is kept is there and whole."),
    "gc": ("foedus.cli.coordinator_gc", "Remove blobs that nothing needs."),
    "migrate": ("foedus.cli.coordinator_migrate", "Bring the database to this release's schema."),
    "provision": ("foedus.cli.coordinator_provision", "Make a start-up kit for every site."),
    "restore": ("foedus.cli.coordinator_restore", "Bring a backup into a new folder or database."),
    "start": ("foedus.cli.coordinator_start", "Start a coordinator here, until Ctrl-C."),
    "org": ("foedus.cli.coordinator_org", "Organisations: whom users, runs and nodes belong to."),
    "user": ("foedus.cli.coordinator_user", "Users: people with roles in an organisation."),
    "token": ("foedus.cli.coordinator_token", "API tokens of people."),
    "audit": ("foedus.cli.coordinator_audit", "Who did what, in a log whose entries are chained."),
}


@click.group("coordinator", cls=LazyGroup, lazy=LAZY)
def command() -> None:
    """Be a coordinator: start it, invite nodes, give tokens."""


@command.command("invite")
@json_option
@connected
def invite(connection: Connection) -> None:
    """Make a join token, with which one node may join once."""
    made = create_join_token(connection)
    emit({"token": made.token, "expires_at": made.expires_at.isoformat()}, made.token)
    say(f"It admits one node, until {made.expires_at:%Y-%m-%d %H:%M} UTC. On the node:")
    say(f"  foedus node join --coordinator {connection.url} --token {made.token}")


@command.command("nodes")
@json_option
@connected
def nodes(connection: Connection) -> None:
    """List every node that ever joined."""
    views = list_nodes(connection)
    emit({"nodes": [view.model_dump(mode="json") for view in views]}, _nodes(views))


@command.command("revoke")
@click.argument("node")
@json_option
@connected
def revoke(connection: Connection, node: str) -> None:
    """Refuse NODE (its id) from now on."""
    view = revoke_node(connection, node)
    emit(view.model_dump(mode="json"), _nodes((view,)))


def _nodes(views: tuple[NodeView, ...]) -> str:
    rows = [
        [
            view.id,
            view.name,
            view.status,
            "never" if view.last_seen is None else f"{view.last_seen:.0f} s ago",
            ", ".join(f"{dataset.client} ({dataset.examples})" for dataset in view.datasets),
        ]
        for view in views
    ]
    return table(["id", "name", "status", "seen", "datasets (examples)"], rows)
