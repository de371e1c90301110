"""The keys of nodes: which are accepted now, and how one is replaced while its node is at work."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from foedus.domain.errors import AccessError, ConflictError
from foedus.store.audit import Act, record
from foedus.store.tables import nodes
from foedus.store.trust import retired_keys
from foedus.wire.proofs import check_proof
from foedus.wire.signing import Verified
from foedus.wire.trust import Rotated, RotateKey, rotation


def keys_of(tx: Connection, node: str, now: float) -> tuple[str, ...]:
    """The keys of an active node that are accepted at ``now``, the current one first; none where it is unknown."""
    current = tx.execute(select(nodes.c.public_key).where(nodes.c.id == node, nodes.c.status == "active")).scalar()
    if current is None:
        return ()
    mine = (retired_keys.c.node_id == node, retired_keys.c.until > now)
    return current, *tx.execute(select(retired_keys.c.public_key).where(*mine)).scalars()


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
