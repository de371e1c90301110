"""What a coordinator's admins and users do: let nodes join, see and revoke nodes, manage users and API tokens."""

from __future__ import annotations

from collections.abc import Sequence

from foedus.client.http import Connection, identified, parse
from foedus.domain.names import check_name
from foedus.wire.messages import JoinToken, NodeList, NodeView, Released
from foedus.wire.people import (
    OVERLAP_SECONDS,
    TOKEN_DAYS,
    ChangeUser,
    NewOrg,
    NewToken,
    NewUser,
    OrgList,
    OrgView,
    Role,
    RotateToken,
    Token,
    TokenList,
    TokenView,
    UserList,
    UserView,
)
from foedus.wire.trust import NewJoinToken


def create_join_token(connection: Connection, wanted: NewJoinToken | None = None) -> JoinToken:
    """A token with which one node may join, once, before it expires; ``wanted`` binds it. The node is then yours."""
    return connection.post("/join-tokens", JoinToken, wanted)


def list_nodes(connection: Connection) -> tuple[NodeView, ...]:
    """The nodes that ever joined, of those that you may see."""
    return connection.get("/nodes", NodeList).nodes


def release_client(connection: Connection, client: str) -> Released:
    """Let another node take this client's name.

    Raises:
        ConfigError: ``name_refused``.
    """
    return connection.post(f"/client-names/{check_name(client, 'client')}/release", Released)


def revoke_node(connection: Connection, node: str) -> NodeView:
    """Refuse all that this node's key signs from now on."""
    return connection.post(f"/nodes/{identified('node', node)}/revoke", NodeView)


def create_org(connection: Connection, name: str) -> OrgView:
    """A new organisation.

    Raises:
        ConfigError: ``name_refused``.
    """
    return connection.post("/orgs", OrgView, NewOrg(name=check_name(name, "organisation")))


def list_orgs(connection: Connection) -> tuple[OrgView, ...]:
    """The organisations that you may see, by name."""
    return connection.get("/orgs", OrgList).orgs


def create_user(connection: Connection, name: str, roles: Sequence[Role], org: str | None = None) -> UserView:
    """A new user of an organisation (its id; none: yours).

    Raises:
        ConfigError: ``name_refused``.
    """
    known = identified("organisation", org) if org else None
    return connection.post("/users", UserView, NewUser(name=check_name(name, "user"), org=known, roles=tuple(roles)))


def list_users(connection: Connection) -> tuple[UserView, ...]:
    """The users that you may see, by name."""
    return connection.get("/users", UserList).users


def change_user(connection: Connection, user: str, change: ChangeUser) -> UserView:
    """Give a user (an id) other roles, or disable or enable them."""
    path, content = f"/users/{identified('user', user)}", change.model_dump_json(exclude_none=True).encode()
    headers = {"Content-Type": "application/json"}
    answer = connection.retried(lambda: connection.send("PATCH", path, content, headers))
    return parse(UserView, answer.content, connection.url)


def create_token(
    connection: Connection,
    name: str,
    user: str | None = None,
    actions: Sequence[str] = (),
    days: float = TOKEN_DAYS,
) -> Token:
    """An API token, for you or a user (an id); it is shown this once.

    Raises:
        ConfigError: ``name_refused``.
    """
    known = identified("user", user) if user else None
    command = NewToken(name=check_name(name, "token"), user=known, actions=tuple(actions), days=days)
    return connection.post("/tokens", Token, command)


def list_tokens(connection: Connection) -> tuple[TokenView, ...]:
    """The tokens that you may see, without their secrets."""
    return connection.get("/tokens", TokenList).tokens


def rotate_token(
    connection: Connection, token: str, overlap: float = OVERLAP_SECONDS, days: float = TOKEN_DAYS
) -> Token:
    """A token's successor; the old one (an id) is taken for ``overlap`` more seconds."""
    path = f"/tokens/{identified('token', token)}/rotate"
    return connection.post(path, Token, RotateToken(overlap=overlap, days=days))


def revoke_token(connection: Connection, token: str) -> TokenView:
    """Refuse a token (an id) from now on."""
    return connection.post(f"/tokens/{identified('token', token)}/revoke", TokenView)
