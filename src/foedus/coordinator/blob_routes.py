"""Blobs over HTTP: by their SHA-256, with ranges down and resumable uploads up. Nothing is held whole in memory."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from foedus.coordinator.blob_access import (
    Caller,
    begin_upload,
    check_readable,
    complete_upload,
    upload_of,
)
from foedus.coordinator.context import Context, context
from foedus.coordinator.http import limited, parse, person, read_body, signed_head
from foedus.coordinator.live import name_blob
from foedus.domain.errors import IntegrityError, UsageError
from foedus.store.artifacts import DIGEST, UploadWriter
from foedus.wire.http import UPLOAD_OFFSET
from foedus.wire.messages import NewUpload, UploadView
from foedus.wire.signing import Verified, check_body

router = APIRouter(prefix="/api/v1", tags=["blobs"])

PIECE = 1 << 20
RANGE = re.compile(r"bytes=(\d{1,19})-(\d{0,19})")
Value = TypeVar("Value")


async def caller(request: Request) -> tuple[Caller, Verified | None]:
    """A person with a token, or a node whose signature covers a body that is still to be read."""
    if "authorization" in request.headers:
        return await person(request), None
    return await signed_head(request)


@router.put("/blobs/{digest}", status_code=201)
async def put_blob(request: Request, digest: str) -> Response:
    """Keep a whole blob; its bytes have to match its name."""
    _, verified = await caller(request)
    parts = context(request)
    _check_digest(digest)
    if verified is not None:
        check_body(verified, bytes.fromhex(digest))
    async with contextmanager_in_threadpool(parts.artifacts.writing(digest)) as writer:
        async for piece in _gathered(limited(request, parts.settings.blob_limit)):
            await to_thread.run_sync(writer.write, piece)
    await _transact(parts, "blob", lambda tx: name_blob(tx, digest, writer.size, time.time()))
    return Response(status_code=201)


@router.get("/blobs/{digest}")
@router.head("/blobs/{digest}", include_in_schema=False)
async def get_blob(request: Request, digest: str) -> Response:
    """A blob's bytes, whole or ``Range: bytes=FROM-[TO]``; HEAD tells its size."""
    who, verified = await caller(request)
    await _no_body(request, verified)
    parts = context(request)
    _check_digest(digest)
    path, size = await to_thread.run_sync(_find, parts, who, digest)
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{digest}"'}
    start, stop, status = _range(request.headers.get("range"), size)
    if status == 416:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="application/octet-stream")
    return StreamingResponse(_pieces(path, start, stop), status, headers, "application/octet-stream")


@router.post("/uploads")
async def post_upload(request: Request) -> UploadView:
    """Begin a resumable upload, or find the one that was begun."""
    who, verified = await caller(request)
    body = await read_body(request)
    _check_signed(verified, body)
    command, parts = parse(NewUpload, body), context(request)
    limit = parts.settings.blob_limit
    upload = await _transact(parts, "upload", lambda tx: begin_upload(tx, who, command, limit))
    return UploadView(id=upload, offset=parts.artifacts.offset(upload), complete=False, **command.model_dump())


@router.head("/uploads/{upload}")
async def head_upload(request: Request, upload: str) -> Response:
    """How many bytes have arrived, in ``Upload-Offset``."""
    who, verified = await caller(request)
    await _no_body(request, verified)
    parts = context(request)
    blob, complete = await _read(parts, lambda tx: upload_of(tx, who, upload))
    offset = blob.size if complete else parts.artifacts.offset(upload)
    return Response(headers={UPLOAD_OFFSET: str(offset)})


@router.patch("/uploads/{upload}")
async def patch_upload(request: Request, upload: str) -> UploadView:
    """Append a chunk at ``Upload-Offset``; what arrived before the connection broke is kept."""
    who, verified = await caller(request)
    parts = context(request)
    blob, complete = await _read(parts, lambda tx: upload_of(tx, who, upload))
    if complete:
        return UploadView(id=upload, offset=blob.size, complete=True, **blob.model_dump())
    offset = _offset(request)
    async with contextmanager_in_threadpool(parts.artifacts.appending(upload, offset)) as writer:
        await _append(request, writer, blob.size - offset, verified)
    now = parts.artifacts.offset(upload)
    if now == blob.size:
        await to_thread.run_sync(parts.artifacts.finish, upload, blob.digest)
        await _transact(parts, "upload_complete", lambda tx: complete_upload(tx, upload, blob))
    return UploadView(id=upload, offset=now, complete=now == blob.size, **blob.model_dump())


async def _append(request: Request, writer: UploadWriter, limit: int, verified: Verified | None) -> None:
    """Write a chunk as it comes. One that is too long, or not what a node signed, is taken back."""
    digest = hashlib.sha256()
    try:
        async for chunk in limited(request, limit):
            await to_thread.run_sync(writer.write, chunk)
            digest.update(chunk)
        if verified is not None:
            check_body(verified, digest.digest())
    except IntegrityError:
        writer.take_back()
        raise


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of about a megabyte: handing each to a thread costs more than writing a small one."""
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        if len(gathered) >= PIECE:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _offset(request: Request) -> int:
    text = request.headers.get(UPLOAD_OFFSET, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UsageError("upload_offset_missing", f"The request needs the header {UPLOAD_OFFSET}, a number of bytes.")
    return int(text)


def _range(header: str | None, size: int) -> tuple[int, int, int]:
    """First byte, end, and status of a reply; what is no single range from a byte is answered whole (RFC 9110)."""
    match = RANGE.fullmatch(header) if header else None
    if match is None:
        return 0, size, 200
    start = int(match.group(1))
    last = int(match.group(2)) if match.group(2) else size - 1
    if start >= size or last < start:
        return 0, 0, 416
    return start, min(last + 1, size), 206


async def _pieces(path: Path, start: int, stop: int) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        await file.seek(start)
        left = stop - start
        while left and (piece := await file.read(min(PIECE, left))):
            left -= len(piece)
            yield piece


def _find(parts: Context, who: Caller, digest: str) -> tuple[Path, int]:
    with parts.store.reading() as tx:
        check_readable(tx, who, digest)
    path = parts.artifacts.path(digest)
    return path, path.stat().st_size


def _check_digest(digest: str) -> None:
    if not DIGEST.fullmatch(digest):
        raise UsageError("digest_malformed", "A blob's name is its SHA-256: 64 hexadecimal digits.")


def _check_signed(verified: Verified | None, body: bytes) -> None:
    if verified is not None:
        check_body(verified, hashlib.sha256(body).digest())


async def _no_body(request: Request, verified: Verified | None) -> None:
    async for _ in limited(request, 0):
        pass
    _check_signed(verified, b"")


async def _transact(parts: Context, name: str, effect: Callable[[Connection], Value]) -> Value:
    def work() -> Value:
        with parts.store.transaction(name) as tx:
            return effect(tx)

    return await to_thread.run_sync(work)


async def _read(parts: Context, look: Callable[[Connection], Value]) -> Value:
    def work() -> Value:
        with parts.store.reading() as tx:
            return look(tx)

    return await to_thread.run_sync(work)
