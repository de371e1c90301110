"""Nodes with keys: let in, greeted, listed, revoked. Use cases take a transaction and return values."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError as SqlIntegrityError

from foedus.coordinator.identities import NodeIdentity, new_id
from foedus.domain.errors import AccessError, ConflictError, NotFoundError
from foedus.store.tables import approvals, assignments, datasets, join_tokens, nodes
from foedus.wire.messages import DatasetView, Hello, Joined, JoinNode, JoinToken, NodeList, NodeView, Welcome
from foedus.wire.signing import hash_secret, new_secret, parse_public_key

JOIN_SECONDS = 24 * 3600.0
LONGEST_POLL = 30.0


def create_join_token(tx: Connection) -> JoinToken:
    """A token that enrols one node within a day. Only its hash is kept."""
    secret, expires = new_secret("fdj"), time.time() + JOIN_SECONDS
    tx.execute(insert(join_tokens).values(hash=hash_secret(secret), expires_at=expires))
    return JoinToken(token=secret, expires_at=datetime.fromtimestamp(expires, UTC))


def join_node(tx: Connection, command: JoinNode) -> Joined:
    """Enrol a node; the token is used up, and of two that race for it one wins.

    The same key with the same token is the same node, so a reply that was lost may be asked for again.

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
    fresh = (
        join_tokens.c.hash == hash_secret(command.token),
        join_tokens.c.used_at.is_(None),
        join_tokens.c.expires_at > now,
    )
    if tx.execute(update(join_tokens).where(*fresh).values(used_at=now)).rowcount != 1:
        raise AccessError(
            "join_token_refused",
            "The join token is unknown, used or expired.",
            "",
            "Ask for a new one: `foedus coordinator invite`.",
        )
    node = new_id("nd")
    row = {"id": node, "name": command.name, "public_key": command.public_key, "status": "active", "joined_at": now}
    try:
        tx.execute(insert(nodes).values(**row))
    except SqlIntegrityError as error:
        raise ConflictError(
            "node_name_taken",
            f"There is a node {command.name} already.",
            "",
            "Choose another name with `foedus node init`.",
        ) from error
    return Joined(node=node)


def public_key_of(tx: Connection, node: str) -> str | None:
    """The key of an active node."""
    wanted = select(nodes.c.public_key).where(nodes.c.id == node, nodes.c.status == "active")
    key = tx.execute(wanted).scalar_one_or_none()
    return None if key is None else str(key)


def identify(tx: Connection, node: str) -> NodeIdentity:
    """The active node of this id.

    Raises:
        AccessError: ``key_unknown``.
    """
    row = tx.execute(
        select(nodes.c.id, nodes.c.name).where(nodes.c.id == node, nodes.c.status == "active")
    ).one_or_none()
    if row is None:
        raise AccessError("key_unknown", "The node is not known here, or was revoked.")
    return NodeIdentity(row.id, row.name)


def hello(tx: Connection, node: NodeIdentity, command: Hello) -> Welcome:
    """Replace what is known of a node; leases of an earlier boot are freed, to be taken again with a higher token.

    Raises:
        ConflictError: ``client_name_taken``.
    """
    tx.execute(
        update(nodes)
        .where(nodes.c.id == node.id)
        .values(boot=command.boot, version=command.version, last_seen=time.time())
    )
    names = [dataset.client for dataset in command.datasets]
    taken = select(datasets.c.client).where(datasets.c.client.in_(names), datasets.c.node_id != node.id)
    if (name := tx.execute(taken).scalars().first()) is not None or len(set(names)) < len(names):
        raise ConflictError(
            "client_name_taken",
            f"The client name {name or 'of a dataset'} is used by another node or twice.",
            "Client names are unique per coordinator: they decide batches and the order of sums.",
            "Rename the dataset: `foedus node data remove`, then `foedus node data add --name OTHER`.",
        )
    tx.execute(delete(datasets).where(datasets.c.node_id == node.id))
    for dataset in command.datasets:
        row = {"client": dataset.client, "node_id": node.id, "tags": list(dataset.tags), "examples": dataset.examples}
        tx.execute(insert(datasets).values(**row))
    tx.execute(delete(approvals).where(approvals.c.node_id == node.id))
    for approval in {approval.digest: approval for approval in command.approvals}.values():
        tx.execute(insert(approvals).values(node_id=node.id, **approval.model_dump()))
    stale = (assignments.c.node_id == node.id, assignments.c.status == "leased", assignments.c.boot != command.boot)
    tx.execute(update(assignments).where(*stale).values(status="open", lease_until=None))
    return Welcome(node=node.id, wait=LONGEST_POLL)


def seen(tx: Connection, node: NodeIdentity) -> None:
    """Remember that a node is there."""
    tx.execute(update(nodes).where(nodes.c.id == node.id).values(last_seen=time.time()))


def revoke_node(tx: Connection, node: str) -> NodeView:
    """Refuse a node from now on. The names of its datasets are free for another node.

    Raises:
        NotFoundError: ``node_unknown``.
    """
    if tx.execute(update(nodes).where(nodes.c.id == node).values(status="revoked")).rowcount != 1:
        raise NotFoundError("node_unknown", "There is no such node.", "", "`foedus coordinator nodes` lists them.")
    tx.execute(delete(datasets).where(datasets.c.node_id == node))
    return next(view for view in list_nodes(tx).nodes if view.id == node)


def list_nodes(tx: Connection) -> NodeList:
    """Every node that ever joined, by name."""
    owned: dict[str, list[DatasetView]] = {}
    for row in tx.execute(select(datasets).order_by(datasets.c.client)):
        view = DatasetView(client=row.client, tags=tuple(row.tags), examples=row.examples)
        owned.setdefault(row.node_id, []).append(view)
    rows = tx.execute(select(nodes).order_by(nodes.c.name)).all()
    return NodeList(nodes=tuple(_view(row, tuple(owned.get(row.id, ()))) for row in rows))


def _view(row: Row[tuple[object, ...]], owned: tuple[DatasetView, ...]) -> NodeView:
    ago = None if row.last_seen is None else max(0.0, time.time() - row.last_seen)
    return NodeView(id=row.id, name=row.name, status=row.status, last_seen=ago, version=row.version, datasets=owned)
