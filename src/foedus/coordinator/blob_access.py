"""Which blobs a caller may read."""

from __future__ import annotations

from sqlalchemy import Connection, and_, or_, select

from foedus.coordinator.blob_rows import Caller, owns
from foedus.coordinator.identities import NodeIdentity, Person
from foedus.coordinator.orders import TAKES
from foedus.coordinator.policy import within
from foedus.domain.errors import NotFoundError
from foedus.domain.lifecycle import ENDED
from foedus.store.tables import assignments, datasets, phases, rounds, runs


def check_readable(tx: Connection, caller: Caller, digest: str) -> None:
    """People read what they brought and what runs within their reach name; a node plans of runs that want its data.

    It reads broadcasts made for it, too, and how a run that it works for has tables read.

    A node does not read what it brought itself either: whether a digest is known here is told to nobody.

    Raises:
        NotFoundError: ``blob_unknown``, for what is not there and for what is not theirs alike.
    """
    if isinstance(caller, Person):
        readable = owns(tx, digest, caller.actor) or _is_of_run(tx, caller, digest)
    else:
        readable = any(look(tx, caller, digest) for look in (_is_plan_for, _is_broadcast_for, _is_alignment_for))
    if readable:
        return
    raise NotFoundError("blob_unknown", f"There is no blob {digest[:12]}… here.")


def _is_of_run(tx: Connection, who: Person, digest: str) -> bool:
    """Whether a run within somebody's reach names the blob: its plan, a model, or an update that is kept."""
    of_run = select(runs.c.id).where(within(who, "models.read", runs.c.owner_id, runs.c.org_id))
    queries = (
        of_run.where(or_(*(column == digest for column in (runs.c.plan_blob, runs.c.initial_model, runs.c.alignment)))),
        of_run.join(rounds, rounds.c.run_id == runs.c.id).where(rounds.c.model_blob == digest),
        of_run.join(assignments, assignments.c.run_id == runs.c.id).where(assignments.c.update == digest),
    )
    return any(tx.execute(query.limit(1)).first() is not None for query in queries)


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


def _is_alignment_for(tx: Connection, node: NodeIdentity, digest: str) -> bool:
    asked = select(runs.c.id).join(assignments, assignments.c.run_id == runs.c.id)
    here = (runs.c.alignment == digest, runs.c.status.not_in(ENDED), assignments.c.node_id == node.id)
    return tx.execute(asked.where(*here).limit(1)).first() is not None
