"""The keys of nodes: which are accepted now, and how one is replaced while its node is at work."""

from __future__ import annotations

import time

from sqlalchemy import Connection, and_, bindparam, insert, select, update

from foedus.coordinator.identities import NodeIdentity
from foedus.domain.errors import AccessError, ConflictError
from foedus.store.audit import Act, record
from foedus.store.people import organisations
from foedus.store.tables import nodes
from foedus.store.trust import retired_keys
from foedus.wire.proofs import check_proof
from foedus.wire.signing import Verified
from foedus.wire.trust import Rotated, RotateKey, rotation

_KNOWN = (
    select(
        *(nodes.c.id, nodes.c.name, nodes.c.org_id, organisations.c.name.label("organisation")),
        *(nodes.c.public_key, retired_keys.c.public_key.label("retired")),
    )
    .select_from(
        nodes.outerjoin(organisations, organisations.c.id == nodes.c.org_id).outerjoin(
            retired_keys, and_(retired_keys.c.node_id == nodes.c.id, retired_keys.c.until > bindparam("now"))
        )
    )
    .where(nodes.c.id == bindparam("node"), nodes.c.status == "active")
)
"""An active node with its keys that are accepted, a row for each retired one, or one without; every request asks."""


def known(tx: Connection, node: str, now: float) -> tuple[NodeIdentity, tuple[str, ...]] | None:
    """An active node, and its keys that are accepted at ``now``, the current one first."""
    rows = tx.execute(_KNOWN, {"node": node, "now": now}).all()
    if not rows:
        return None
    first, retired = rows[0], (row.retired for row in rows if row.retired is not None)
    return NodeIdentity(first.id, first.name, first.organisation or "", first.org_id), (first.public_key, *retired)


def identify(tx: Connection, node: str) -> NodeIdentity:
    """The active node of this id.

    Raises:
        AccessError: ``key_unknown``.
    """
    if (found := known(tx, node, time.time())) is None:
        raise node_gone()
    return found[0]


def node_gone() -> AccessError:
    """That a node is not known, or not any more."""
    return AccessError("key_unknown", "The node is not known here, or was revoked.")


def rotate(tx: Connection, signed: Verified, command: RotateKey, now: float) -> Rotated:
    """Replace a node's key. Asked again, by the old key or the new one, it is done already.

    Only the current key may name the next one: whoever has stolen the old one gains nothing by the overlap.

    Raises:
        AccessError: ``key_malformed``, ``proof_refused``, ``key_retired``.
        ConflictError: ``key_taken``.
    """
    node, new = signed.key_id, command.public_key
    check_proof(new, rotation(node, new), command.proof)
    active = select(nodes.c.public_key, nodes.c.org_id).where(nodes.c.id == node, nodes.c.status == "active")
    current, org = tx.execute(active).one()
    if current == new:
        left = [row.until - now for row in tx.execute(select(retired_keys).where(retired_keys.c.node_id == node))]
        return Rotated(node=node, overlap=max([0.0, *left]))
    if signed.key != current:
        raise AccessError(
            "key_retired",
            "The request is signed with a key that was replaced.",
            "Only the current key may name the next one.",
            "Repeat `foedus node rotate-key` in the node's home that has the current key.",
        )
    known = (
        tx.execute(select(nodes.c.id).where(nodes.c.public_key == new)).first()
        or tx.execute(select(retired_keys.c.node_id).where(retired_keys.c.public_key == new)).first()
    )
    if known is not None:
        raise ConflictError("key_taken", "That key is or was a node's.", "", "Rotate with a new key.")
    tx.execute(insert(retired_keys).values(public_key=current, node_id=node, until=now + command.overlap))
    tx.execute(update(nodes).where(nodes.c.id == node).values(public_key=new))
    record(tx, Act(f"node:{node}", "nodes.rotate", node, org, detail={"overlap": command.overlap}))
    return Rotated(node=node, overlap=command.overlap)
