"""Which blobs a caller may read."""

from __future__ import annotations

from sqlalchemy import Connection, and_, select

from foedus.coordinator.blob_rows import Caller
from foedus.coordinator.identities import NodeIdentity, Person
from foedus.coordinator.orders import TAKES
from foedus.domain.errors import NotFoundError
from foedus.domain.lifecycle import ENDED
from foedus.store.tables import assignments, datasets, phases, runs


def check_readable(tx: Connection, caller: Caller, digest: str) -> None:
    """People may read every blob; a node reads plans of runs that want its datasets, and broadcasts made for it.

    A node does not read what it brought itself either: whether a digest is known here is told to nobody.

    Raises:
        NotFoundError: ``blob_unknown``, for what is not there and for what is not theirs alike.
    """
    if isinstance(caller, Person) or _is_plan_for(tx, caller, digest) or _is_broadcast_for(tx, caller, digest):
        return
    raise NotFoundError("blob_unknown", f"There is no blob {digest[:12]}… here.")


def _is_plan_for(tx: Connection, node: NodeIdentity, digest: str) -> bool:
    wanted = select(runs.c.spec).where(runs.c.plan_blob == digest, runs.c.status.not_in(ENDED))
    tags = [set(row.tags) for row in tx.execute(select(datasets.c.tags).where(datasets.c.node_id == node.id))]
    specs = tx.execute(wanted).scalars().all()
    return any(set(spec["data"].get("tags", [])) <= have for spec in specs for have in tags)


def _is_broadcast_for(tx: Connection, node: NodeIdentity, digest: str) -> bool:
    keys = ("run_id", "round", "phase", "attempt")
    same_phase = and_(*(phases.c[key] == assignments.c[key] for key in keys))
    mine = select(phases.c.broadcast).join_from(phases, assignments, same_phase)
    rows = tx.execute(mine.where(assignments.c.node_id == node.id, TAKES)).scalars()
    return any(digest in broadcast.values() for broadcast in rows)
