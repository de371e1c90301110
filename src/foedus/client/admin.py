"""What a coordinator's admin does: let nodes join, give people tokens, see and revoke nodes."""

from __future__ import annotations

from typing import Literal

from foedus.client.http import Connection, identified
from foedus.domain.names import check_name
from foedus.wire.messages import JoinToken, NewToken, NodeList, NodeView, Token
from foedus.wire.trust import NewJoinToken


def create_join_token(connection: Connection, wanted: NewJoinToken | None = None) -> JoinToken:
    """A token with which one node may join, once, before it expires; ``wanted`` binds it."""
    return connection.post("/join-tokens", JoinToken, wanted)


def create_token(connection: Connection, name: str, role: Literal["admin", "researcher"] = "researcher") -> Token:
    """An API token for a person; it is shown this once.

    Raises:
        ConfigError: ``name_refused``.
    """
    return connection.post("/tokens", Token, NewToken(name=check_name(name, "token"), role=role))


def list_nodes(connection: Connection) -> tuple[NodeView, ...]:
    """Every node that ever joined."""
    return connection.get("/nodes", NodeList).nodes


def revoke_node(connection: Connection, node: str) -> NodeView:
    """Refuse all that this node's key signs from now on."""
    return connection.post(f"/nodes/{identified('node', node)}/revoke", NodeView)
