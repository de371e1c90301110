"""The rows of blobs: naming what is stored, who brought it, uploads with their parts, and each actor's quota.

A row says that the bytes are there. Whoever refers to a blob names it in the same transaction, which says that it is
used now; the collector (:mod:`foedus.coordinator.retention`) takes only what nobody named for a while and nothing
refers to, and marks its row before it touches the bytes. So what is named is there, and stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Connection, Table, bindparam, delete, exists, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from foedus.coordinator.identities import NodeIdentity, Person, new_id
from foedus.domain.errors import ConflictError, NotFoundError, StorageError, TooLargeError, UnreachableError
from foedus.store.artifacts import Artifacts
from foedus.store.blobs import blob_owners, upload_parts
from foedus.store.tables import blobs, uploads
from foedus.wire.messages import NewUpload

Caller = Person | NodeIdentity

_BLOB: BindParameter[str] = bindparam("blob")
_ACTOR: BindParameter[str] = bindparam("by")
_OWNER = (blob_owners.c.digest == _BLOB, blob_owners.c.actor == _ACTOR)
_OWN = select(blobs.c.size).where(blobs.c.digest == _BLOB, blobs.c.removing == 0, exists().where(*_OWNER))
_NAMED = update(blobs).where(blobs.c.digest == _BLOB, blobs.c.removing == 0).values(used_at=bindparam("now"))
_USED = _NAMED.where(exists().where(*_OWNER))
_KEPT = select(func.coalesce(func.sum(blobs.c.size), 0)).join(blob_owners, blob_owners.c.digest == blobs.c.digest)
_COMING = select(func.coalesce(func.sum(uploads.c.size), 0)).where(uploads.c.actor == _ACTOR, uploads.c.completed == 0)
_TAKEN = _KEPT.where(blob_owners.c.actor == _ACTOR).scalar_subquery() + _COMING.scalar_subquery()
_ROOM = select(_OWN.exists().label("own"), _TAKEN.label("taken"))


@dataclass(frozen=True)
class Quota:
    """What one actor may take: bytes of one blob, unfinished uploads, and bytes of all that it brought and is kept."""

    blob: int = 16 << 30
    uploads: int = 64
    stored: int = 1 << 40


@dataclass(frozen=True)
class Begun:
    """An upload: what it is to become, whether it did, and how many bytes have arrived."""

    blob: NewUpload
    complete: bool
    offset: int


def scope_of(caller: Caller) -> str:
    """What one actor brings is brought one after another, so that its quota holds."""
    return f"blobs of {caller.actor}"


def name_blobs(tx: Connection, artifacts: Artifacts, digests: Iterable[str]) -> None:
    """Say of blobs whose bytes are stored that they are used now; they stay at least until what refers to them goes.

    Raises:
        UnreachableError: ``blob_removing`` where the collector is about to remove it, or just did.
    """
    now = time.time()
    for digest in sorted(set(digests)):  # in one order, so that no two transactions wait for each other
        if tx.execute(_NAMED, {"blob": digest, "now": now}).rowcount:
            continue
        try:
            row = {"digest": digest, "size": artifacts.size(digest), "created_at": now, "used_at": now}
        except NotFoundError:
            raise _removing(digest) from None
        if not _insert(tx, blobs, row) and not tx.execute(_NAMED, {"blob": digest, "now": now}).rowcount:
            raise _removing(digest)


def own_blob(tx: Connection, artifacts: Artifacts, digest: str, actor: str) -> None:
    """Name a blob whose bytes this actor has just sent.

    Raises:
        UnreachableError: ``blob_removing``.
    """
    name_blobs(tx, artifacts, (digest,))
    _insert(tx, blob_owners, {"digest": digest, "actor": actor, "at": time.time()})


def owns(tx: Connection, digest: str, actor: str) -> bool:
    """Whether this actor has sent the blob's bytes, and they are kept."""
    return tx.execute(_OWN, {"blob": digest, "by": actor}).first() is not None


def size_of_own(tx: Connection, digest: str, actor: str) -> int:
    """The size in bytes of a blob that this actor has sent.

    Raises:
        ConflictError: ``blob_missing``: it is not here, or somebody else's, which are told alike.
    """
    size = tx.execute(_OWN, {"blob": digest, "by": actor}).scalar()
    if size is None:
        raise _missing()
    return int(size)


def use_own(tx: Connection, digest: str, actor: str) -> None:
    """Refer to a blob that this actor has sent.

    Raises:
        ConflictError: ``blob_missing``.
    """
    if not tx.execute(_USED, {"blob": digest, "by": actor, "now": time.time()}).rowcount:
        raise _missing()


def begin_upload(tx: Connection, caller: Caller, command: NewUpload, quota: Quota) -> str:
    """The id of an upload of this caller; asking again for the same blob finds the one that was begun.

    Raises:
        TooLargeError: ``blob_too_large``. StorageError: ``quota_uploads``, ``quota_bytes``.
    """
    if command.size > quota.blob:
        raise TooLargeError(
            "blob_too_large", f"A blob has at most {quota.blob} bytes.", f"This one has {command.size}."
        )
    mine = (uploads.c.actor == caller.actor, uploads.c.completed == 0)
    same = (uploads.c.digest == command.digest, uploads.c.size == command.size)
    found = tx.execute(select(uploads.c.id).where(*mine, *same)).scalars().first()
    if found is not None:
        return str(found)
    unfinished = tx.execute(select(func.count()).select_from(uploads).where(*mine)).scalar_one()
    if unfinished >= quota.uploads:
        raise StorageError(
            "quota_uploads",
            f"There are {unfinished} unfinished uploads of yours.",
            f"At most {quota.uploads} may be on their way.",
            "Finish one of them; those that nobody goes on with are removed in time.",
        )
    check_room(tx, command.digest, command.size, caller.actor, quota)
    upload = new_id("up")
    row = {"id": upload, "actor": caller.actor, "created_at": time.time(), "completed": 0, **command.model_dump()}
    tx.execute(insert(uploads).values(**row))
    return upload


def check_room(tx: Connection, digest: str, size: int, actor: str, quota: Quota) -> None:
    """Refuse a blob that an actor has no room for; one that it has sent before takes none.

    Raises:
        StorageError: ``quota_bytes``.
    """
    found = tx.execute(_ROOM, {"blob": digest, "by": actor}).one()
    if not found.own and int(found.taken) + size > quota.stored:
        raise StorageError(
            "quota_bytes",
            f"You have {found.taken} bytes here, and {size} more are too many.",
            f"At most {quota.stored} bytes are kept for one node or person.",
            "Wait until older blobs are removed, or have the coordinator's operator raise the quota.",
        )


def upload_of(tx: Connection, caller: Caller, upload: str) -> Begun:
    """An upload of this caller.

    Raises:
        NotFoundError: ``upload_unknown``.
    """
    row = tx.execute(select(uploads).where(uploads.c.id == upload, uploads.c.actor == caller.actor)).one_or_none()
    if row is None:
        raise NotFoundError("upload_unknown", "There is no such upload.")
    blob, complete = NewUpload(digest=row.digest, size=row.size), bool(row.completed)
    return Begun(blob, complete, row.size if complete else arrived(tx, upload))


def arrived(tx: Connection, upload: str) -> int:
    """How many bytes of an upload are here."""
    of_upload = select(func.coalesce(func.sum(upload_parts.c.size), 0)).where(upload_parts.c.upload == upload)
    return int(tx.execute(of_upload).scalar_one())


def parts_of(tx: Connection, upload: str) -> tuple[str, ...]:
    """The parts of an upload, in order."""
    of_upload = select(upload_parts.c.part).where(upload_parts.c.upload == upload)
    return tuple(tx.execute(of_upload.order_by(upload_parts.c.start)).scalars())


def add_part(tx: Connection, caller: Caller, upload: str, came: tuple[int, int, str]) -> Begun:
    """Record a part that arrived (its first byte, size and name); of two that begin at the same byte the first counts.

    Raises:
        NotFoundError: ``upload_unknown``. ConflictError: ``upload_offset``.
    """
    (start, size, part), begun = came, upload_of(tx, caller, upload)
    check_offset(begun, start)
    tx.execute(insert(upload_parts).values(upload=upload, start=start, size=size, part=part))
    return Begun(begun.blob, False, start + size)


def check_offset(begun: Begun, start: int) -> None:
    """Refuse to go on anywhere but where an upload ends.

    Raises:
        ConflictError: ``upload_offset``.
    """
    if start != begun.offset:
        what = f"The upload has {begun.offset} bytes; the request begins at {start}."
        raise ConflictError("upload_offset", what, "", f"Go on at {begun.offset}.")


def complete_upload(tx: Connection, artifacts: Artifacts, which: tuple[Caller, str], blob: NewUpload) -> None:
    """The bytes of a caller's upload are a blob now, and its parts are not needed any more."""
    caller, upload = which
    tx.execute(update(uploads).where(uploads.c.id == upload).values(completed=1))
    tx.execute(delete(upload_parts).where(upload_parts.c.upload == upload))
    own_blob(tx, artifacts, blob.digest, caller.actor)


def forget_upload(tx: Connection, upload: str) -> None:
    """Drop an upload whose bytes are not those that were promised; it may be begun anew."""
    tx.execute(delete(upload_parts).where(upload_parts.c.upload == upload))
    tx.execute(delete(uploads).where(uploads.c.id == upload))


def _insert(tx: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Insert a row unless it is there; whether it was not."""
    made = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    return tx.execute(made(table).on_conflict_do_nothing().returning(table.c.digest), row).first() is not None


def _missing() -> ConflictError:
    return ConflictError("blob_missing", "The update's blob is not here.", "", "Upload it, then contribute again.")


def _removing(digest: str) -> UnreachableError:
    return UnreachableError(
        "blob_removing", f"The blob {digest[:12]}… is being removed just now.", "Nothing named it.", "Send it again."
    )
