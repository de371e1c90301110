"""How nodes are let in: join tokens, used once, for a while, by whom they were made for."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, insert, select, update
from sqlalchemy.exc import IntegrityError as SqlIntegrityError

from foedus.coordinator.identities import Person, new_id
from foedus.coordinator.policy import covers
from foedus.domain.errors import AccessError, ConflictError, NotFoundError
from foedus.store.audit import Act, record
from foedus.store.people import organisations
from foedus.store.tables import join_tokens, nodes
from foedus.wire.messages import Joined, JoinNode, JoinToken
from foedus.wire.public_keys import parse_public_key
from foedus.wire.signing import hash_secret, new_secret
from foedus.wire.trust import NewJoinToken


def create_join_token(tx: Connection, who: Person, command: NewJoinToken) -> JoinToken:
    """A token that enrols one node as whoever asks owns it, bound to organisation and name where they are given.

    The node is of that organisation, and of the one of whoever asks where none is named. Only the hash is kept.

    Raises:
        NotFoundError: ``org_unknown`` for one that is not there, or that whoever asks may invite nobody for.
    """
    secret, expires = new_secret("fdj"), time.time() + command.hours * 3600
    org = _org_of(tx, who, command.organisation)
    row = {"hash": hash_secret(secret), "expires_at": expires, "owner_id": who.id, "org_id": org}
    tx.execute(insert(join_tokens).values(**row, organisation=command.organisation, name=command.name))
    record(tx, Act(who.actor, "nodes.invite", org=org, detail={"name": command.name}))
    return JoinToken(token=secret, expires_at=datetime.fromtimestamp(expires, UTC))


def _org_of(tx: Connection, who: Person, name: str) -> str:
    if not name or name == who.org_name:
        return who.org
    org = tx.execute(select(organisations.c.id).where(organisations.c.name == name)).scalar()
    if org is None or not covers(who, "nodes.invite", "", org):
        raise NotFoundError("org_unknown", "There is no such organisation.", "", "`foedus coordinator org list`.")
    return str(org)


def check_join(tx: Connection, command: JoinNode) -> None:
    """Refuse who could not join anyway, before anything is remembered of the request.

    Raises:
        AccessError: ``join_token_refused``, ``key_malformed``.
    """
    parse_public_key(command.public_key)
    joined = select(nodes.c.id).where(nodes.c.public_key == command.public_key)
    token = select(join_tokens.c.hash).where(*_fresh(command, time.time()))
    if tx.execute(joined).first() is None and tx.execute(token).first() is None:
        raise _refused()


def join_node(tx: Connection, command: JoinNode) -> Joined:
    """Enrol a node; the token is used up, and of two that race for it one wins.

    The same key with the same name is the same node, so a reply that was lost may be asked for again.

    Raises:
        AccessError: ``join_token_refused``, ``key_malformed``.
        ConflictError: ``node_name_taken``, ``key_taken``.
    """
    parse_public_key(command.public_key)
    known = tx.execute(select(nodes).where(nodes.c.public_key == command.public_key)).one_or_none()
    if known is not None:
        if known.name == command.name and known.status == "active":
            return Joined(node=known.id)
        raise ConflictError(
            "key_taken",
            "A node with this key has joined before.",
            "It has another name, or was revoked.",
            "Make a new node, with a key of its own: `foedus node init`.",
        )
    now = time.time()
    invited = tx.execute(select(join_tokens).where(*_fresh(command, now))).one_or_none()
    used = update(join_tokens).where(*_fresh(command, now)).values(used_at=now)
    if invited is None or tx.execute(used).rowcount != 1:
        raise _refused()
    node = new_id("nd")
    row = {"id": node, "name": command.name, "public_key": command.public_key}
    row |= {"owner_id": invited.owner_id, "org_id": invited.org_id}
    try:
        tx.execute(insert(nodes).values(**row, status="active", joined_at=now))
    except SqlIntegrityError as error:
        raise ConflictError(
            "node_name_taken",
            f"There is a node {command.name} already.",
            "",
            "Choose another name with `foedus node init`.",
        ) from error
    record(tx, Act(f"node:{node}", "nodes.join", node, invited.org_id, detail={"name": command.name}))
    return Joined(node=node)


def _fresh(command: JoinNode, now: float) -> tuple[ColumnElement[bool], ...]:
    """What makes a token one that this node may use now; looked up by its hash, so time tells nothing of it."""
    return (
        join_tokens.c.hash == hash_secret(command.token),
        join_tokens.c.used_at.is_(None),
        join_tokens.c.expires_at > now,
        join_tokens.c.name.in_(["", command.name]),
        join_tokens.c.organisation.in_(["", command.organisation]),
    )


def _refused() -> AccessError:
    """The same for every reason: who guesses learns nothing."""
    return AccessError(
        "join_token_refused",
        "The join token is refused.",
        "It is unknown, used or expired, or was made for another node or organisation.",
        "Ask for a new one: `foedus coordinator invite`.",
    )
