"""Which blobs a caller may read, and the rows of blobs and uploads."""

from __future__ import annotations

import time

from sqlalchemy import Connection, and_, insert, select, update

from foedus.coordinator.identities import NodeIdentity, Person, new_id
from foedus.coordinator.live import name_blob
from foedus.domain.errors import NotFoundError, TooLargeError
from foedus.domain.lifecycle import ENDED
from foedus.store.tables import assignments, datasets, phases, runs, uploads
from foedus.wire.messages import NewUpload

Caller = Person | NodeIdentity


def check_readable(tx: Connection, caller: Caller, digest: str) -> None:
    """People may read every blob; a node reads plans of runs that want its datasets, and broadcasts made for it.

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
    rows = tx.execute(mine.where(assignments.c.node_id == node.id, phases.c.status == "open")).scalars()
    return any(digest in broadcast.values() for broadcast in rows)


def begin_upload(tx: Connection, caller: Caller, command: NewUpload, limit: int) -> str:
    """The id of an upload of this caller; asking again for the same blob finds the one that was begun.

    Raises:
        TooLargeError: ``blob_too_large``.
    """
    if command.size > limit:
        raise TooLargeError("blob_too_large", f"A blob has at most {limit} bytes.", f"This one has {command.size}.")
    same = (uploads.c.digest == command.digest, uploads.c.size == command.size, uploads.c.actor == caller.actor)
    found = tx.execute(select(uploads.c.id).where(*same, uploads.c.completed == 0)).scalars().first()
    if found is not None:
        return str(found)
    upload = new_id("up")
    row = {"id": upload, "actor": caller.actor, "created_at": time.time(), "completed": 0, **command.model_dump()}
    tx.execute(insert(uploads).values(**row))
    return upload


def upload_of(tx: Connection, caller: Caller, upload: str) -> tuple[NewUpload, bool]:
    """What an upload of this caller is to become, and whether it did.

    Raises:
        NotFoundError: ``upload_unknown``.
    """
    row = tx.execute(select(uploads).where(uploads.c.id == upload, uploads.c.actor == caller.actor)).one_or_none()
    if row is None:
        raise NotFoundError("upload_unknown", "There is no such upload.")
    return NewUpload(digest=row.digest, size=row.size), bool(row.completed)


def complete_upload(tx: Connection, upload: str, blob: NewUpload) -> None:
    """The upload's bytes are a blob now."""
    tx.execute(update(uploads).where(uploads.c.id == upload).values(completed=1))
    name_blob(tx, blob.digest, blob.size, time.time())
