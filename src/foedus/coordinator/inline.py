"""Small models and updates within messages: a round of a small model costs a node two requests instead of four."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from foedus.coordinator.blob_rows import check_room, own_blob
from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.live import Live
from foedus.domain.errors import FoedusError, TooLargeError
from foedus.store.tables import blobs
from foedus.wire.messages import Assignment, Contribute


def small_blobs(live: Live, asks: Iterable[Assignment]) -> dict[str, bytes]:
    """What assignments name of small blobs, as far as one message has room.

    What cannot be read just now is left out: the node asks for it, and is told why.
    """
    wanted = {digest for ask in asks for digest in (*ask.broadcast.values(), ask.alignment) if digest}
    if not wanted or not live.inline:
        return {}
    with live.store.reading() as tx:
        query = select(blobs.c.digest, blobs.c.size).where(blobs.c.digest.in_(wanted), blobs.c.size <= live.inline)
        sizes = {row.digest: row.size for row in tx.execute(query.order_by(blobs.c.size, blobs.c.digest))}
    found, room = dict[str, bytes](), live.inline
    for digest, size in sizes.items():
        if (room := room - size) < 0:
            break
        try:
            with live.artifacts.keeping():
                found[digest] = live.artifacts.path(digest).read_bytes()
        except (FoedusError, OSError):
            continue
    return found


def store_content(live: Live, command: Contribute) -> int:
    """Store the update that a contribution brought; returns its size in bytes.

    Raises:
        TooLargeError: ``blob_too_large``. IntegrityError: ``digest_mismatch``.
    """
    content = command.content or b""
    if len(content) > live.inline:
        raise TooLargeError(
            "blob_too_large", f"A message has room for a blob of {live.inline} bytes.", "", "Upload the update."
        )
    with live.artifacts.writing(command.update) as writer:
        writer.write(content)
    return writer.size


def own_content(tx: Connection, live: Live, node: NodeIdentity, command: Contribute) -> None:
    """Name the update that was stored, as this node's.

    Raises:
        StorageError: ``quota_bytes``. UnreachableError: ``blob_removing``.
    """
    digest = command.update or ""
    check_room(tx, digest, len(command.content or b""), node.actor, live.quota)
    own_blob(tx, live.artifacts, digest, node.actor)
