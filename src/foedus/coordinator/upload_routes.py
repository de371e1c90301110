"""Resumable uploads over HTTP.

What has arrived stands in the database and on the blobs' shelf, part by part, so that an upload that was begun at one
replica goes on at another.
"""

from __future__ import annotations

from pathlib import Path

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from foedus.coordinator.blob_routes import PIECE, caller, check_signed, no_body, read
from foedus.coordinator.blob_rows import (
    Begun,
    Caller,
    add_part,
    begin_upload,
    check_offset,
    complete_upload,
    forget_upload,
    parts_of,
    scope_of,
    upload_of,
)
from foedus.coordinator.context import Context, context
from foedus.coordinator.http import limited, parse, read_body
from foedus.coordinator.policy import acts
from foedus.domain.errors import ConflictError, IntegrityError, NotFoundError, UnreachableError, UsageError
from foedus.store.artifacts import BlobWriter
from foedus.store.shelves import storage_errors
from foedus.wire.http import UPLOAD_OFFSET
from foedus.wire.messages import NewUpload, UploadView
from foedus.wire.signing import Verified, check_body

router = APIRouter(prefix="/api/v1/uploads", tags=["blobs"])


@router.post("", **acts("blobs.write"))
async def post_upload(request: Request) -> UploadView:
    """Begin a resumable upload, or find the one that was begun."""
    who, verified = await caller(request)
    body = await read_body(request)
    check_signed(verified, body)
    command, parts = parse(NewUpload, body), context(request)

    def begin() -> UploadView:
        with parts.store.transaction("upload", scope=scope_of(who)) as tx:
            upload = begin_upload(tx, who, command, parts.live.quota)
            return _view(upload, upload_of(tx, who, upload))

    return await to_thread.run_sync(begin)


@router.head("/{upload}", **acts("blobs.write"))
async def head_upload(request: Request, upload: str) -> Response:
    """How many bytes have arrived, in ``Upload-Offset``."""
    who, verified = await caller(request)
    await no_body(request, verified)
    begun = await read(context(request), lambda tx: upload_of(tx, who, upload))
    return Response(headers={UPLOAD_OFFSET: str(begun.offset)})


@router.patch("/{upload}", **acts("blobs.write"))
async def patch_upload(request: Request, upload: str) -> UploadView:
    """Append a chunk at ``Upload-Offset``; what arrived before the connection broke is kept."""
    who, verified = await caller(request)
    parts = context(request)
    begun = await read(parts, lambda tx: upload_of(tx, who, upload))
    if begun.complete:
        return _view(upload, begun)
    start = _offset(request)
    check_offset(begun, start)
    file = parts.artifacts.temporary()
    try:
        size, broken = await _receive(request, file, begun.blob.size - start, verified)
        if size:
            begun = await to_thread.run_sync(_keep_part, parts, who, upload, (start, size, file))
    finally:
        file.unlink(missing_ok=True)
    if broken is not None:
        raise broken
    if begun.offset == begun.blob.size:
        begun = await to_thread.run_sync(_finish, parts, who, upload, begun.blob)
    return _view(upload, begun)


async def _receive(
    request: Request, file: Path, limit: int, verified: Verified | None
) -> tuple[int, ClientDisconnect | UnreachableError | None]:
    """Write a chunk as it comes: its size, and how the connection broke, if it did; what came before is kept then.

    Raises:
        IntegrityError: it is too long, or not what a node signed. StorageError: ``disk_full``.
    """
    held, broken = bytearray(), None
    with storage_errors(), file.open("xb") as opened:
        writer = BlobWriter(opened)
        try:
            async for chunk in limited(request, limit):
                held += chunk
                if len(held) >= PIECE:
                    await to_thread.run_sync(writer.write, bytes(held))
                    held.clear()
        except (ClientDisconnect, UnreachableError) as error:
            broken = error
        await to_thread.run_sync(writer.write, bytes(held))
    if verified is not None and broken is None:
        check_body(verified, bytes.fromhex(writer.digest))
    return writer.size, broken


def _keep_part(parts: Context, who: Caller, upload: str, came: tuple[int, int, Path]) -> Begun:
    """Bytes first, their row second. Whoever was overtaken by another request leaves nothing."""
    start, size, file = came
    part = parts.artifacts.keep_part(file)
    try:
        with parts.store.transaction("upload_part", scope=scope_of(who)) as tx:
            return add_part(tx, who, upload, (start, size, part))
    except (ConflictError, NotFoundError):
        parts.artifacts.drop_parts((part,))
        raise


def _finish(parts: Context, who: Caller, upload: str, blob: NewUpload) -> Begun:
    """Make the blob of the parts. One whose bytes differ from what was promised is forgotten, and begins anew."""
    with parts.store.reading() as tx:
        pieces = parts_of(tx, upload)
    scope = scope_of(who)
    try:
        parts.artifacts.join(pieces, blob.digest)
    except IntegrityError:
        with parts.store.transaction("upload_forget", scope=scope) as tx:
            begun = upload_of(tx, who, upload)
            if not begun.complete:  # or else another request has finished it meanwhile, and removed the parts
                forget_upload(tx, upload)
        if begun.complete:
            return begun
        parts.artifacts.drop_parts(pieces)
        raise
    with parts.store.transaction("upload_complete", scope=scope) as tx:
        complete_upload(tx, parts.artifacts, (who, upload), blob)
    parts.artifacts.drop_parts(pieces)
    return Begun(blob, True, blob.size)


def _offset(request: Request) -> int:
    text = request.headers.get(UPLOAD_OFFSET, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UsageError("upload_offset_missing", f"The request needs the header {UPLOAD_OFFSET}, a number of bytes.")
    return int(text)


def _view(upload: str, begun: Begun) -> UploadView:
    return UploadView(id=upload, offset=begun.offset, complete=begun.complete, **begun.blob.model_dump())
