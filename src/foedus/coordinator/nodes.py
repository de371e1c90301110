"""Nodes with keys: recognised, greeted, listed, revoked. Use cases take a transaction and return values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from foedus.coordinator.aligning import forget_kept
from foedus.coordinator.bells import of_node
from foedus.coordinator.greeting import claim, greet, release_all
from foedus.coordinator.identities import NodeIdentity, Person
from foedus.coordinator.policy import within
from foedus.domain.errors import ConflictError, NotFoundError
from foedus.store.audit import Act, record
from foedus.store.tables import approvals, assignments, datasets, nodes
from foedus.store.unit_of_work import notice
from foedus.wire.messages import DatasetRefused, DatasetView, Hello, NodeList, NodeView, Welcome

LONGEST_POLL = 30.0
TOLD_ANSWERS = 20
"""Answers of an owner that one entry of the audit log names at most."""


def hello(tx: Connection, node: NodeIdentity, command: Hello) -> Welcome:
    """Replace what is known of a node; leases of an earlier boot are freed, to be taken again with a higher token.

    A dataset whose name is another node's is left out, and the owner is told; the others are taken.
    """
    greet(tx, node, command)
    forget_kept(tx, node.id)
    tx.execute(delete(datasets).where(datasets.c.node_id == node.id))
    refused = []
    for dataset in command.datasets:
        try:
            claim(tx, node, dataset.client)
        except ConflictError as error:
            refused.append(DatasetRefused(client=dataset.client, code=error.code, reason=str(error)))
            continue
        row = {**dataset.model_dump(mode="json"), "node_id": node.id}
        tx.execute(insert(datasets).values(**row))
    changed = _changed_answers(tx, node, command)
    tx.execute(delete(approvals).where(approvals.c.node_id == node.id))
    for approval in {approval.digest: approval for approval in command.approvals}.values():
        tx.execute(insert(approvals).values(node_id=node.id, **approval.model_dump()))
    stale = (assignments.c.node_id == node.id, assignments.c.status == "leased", assignments.c.boot != command.boot)
    tx.execute(update(assignments).where(*stale).values(status="open", lease_until=None))
    if changed:
        told = dict(sorted(changed.items())[:TOLD_ANSWERS])
        record(tx, Act(node.actor, "plans.answer", node.id, node.org, detail={**told, "count": len(changed)}))
    return Welcome(node=node.id, wait=LONGEST_POLL, refused=tuple(refused))


def revoke_node(tx: Connection, who: Person, node: str) -> NodeView:
    """Refuse a node from now on, also in the poll that it waits in. The names of its datasets are free for another.

    Raises:
        NotFoundError: ``node_unknown``.
    """
    row = tx.execute(select(nodes).where(nodes.c.id == node)).one_or_none()
    if row is None:
        raise node_unknown(node)
    if row.status != "revoked":
        tx.execute(update(nodes).where(nodes.c.id == node).values(status="revoked"))
        tx.execute(delete(datasets).where(datasets.c.node_id == node))
        release_all(tx, node)
        record(tx, Act(who.actor, "nodes.revoke", node, row.org_id))
    notice(tx, of_node(node))
    return _view(tx.execute(select(nodes).where(nodes.c.id == node)).one(), ())


def node_unknown(_: str) -> NotFoundError:
    """That there is no such node."""
    return NotFoundError("node_unknown", "There is no such node.", "", "`foedus coordinator nodes` lists them.")


def list_nodes(tx: Connection, who: Person) -> NodeList:
    """The nodes that ever joined, of those that somebody may see, by name."""
    owned: dict[str, list[DatasetView]] = {}
    for row in tx.execute(select(datasets).order_by(datasets.c.client)):
        facts = {"batch_size": row.batch_size, "speed": row.speed}
        view = DatasetView(client=row.client, tags=tuple(row.tags), examples=row.examples, **facts)
        owned.setdefault(row.node_id, []).append(view)
    mine = within(who, "nodes.read", nodes.c.owner_id, nodes.c.org_id)
    rows = tx.execute(select(nodes).where(mine).order_by(nodes.c.name)).all()
    return NodeList(nodes=tuple(_view(row, tuple(owned.get(row.id, ()))) for row in rows))


def _changed_answers(tx: Connection, node: NodeIdentity, command: Hello) -> Mapping[str, str]:
    """The answers of a node's owner that are not those of before: plan → state."""
    before = dict(tx.execute(select(approvals.c.digest, approvals.c.state).where(approvals.c.node_id == node.id)).all())
    return {one.digest: one.state for one in command.approvals if before.get(one.digest) != one.state}


def _view(row: Row[Any], owned: tuple[DatasetView, ...]) -> NodeView:
    ago = None if row.last_seen is None else max(0.0, time.time() - row.last_seen)
    return NodeView(
        id=row.id,
        name=row.name,
        status=row.status,
        last_seen=ago,
        version=row.version,
        datasets=owned,
        facts=row.facts,
        clashes=row.clashes,
    )
