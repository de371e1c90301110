"""Blobs over HTTP: by their SHA-256, whole up and with ranges down. Nothing is held whole in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from foedus.coordinator.blob_access import check_readable
from foedus.coordinator.blob_rows import Caller, check_room, own_blob, scope_of
from foedus.coordinator.context import Context, context
from foedus.coordinator.http import limited, person, signed_head
from foedus.coordinator.mending import whole
from foedus.coordinator.policy import acts
from foedus.domain.errors import UsageError
from foedus.store.artifacts import DIGEST, BlobWriter
from foedus.wire.signing import Verified, check_body

router = APIRouter(prefix="/api/v1", tags=["blobs"])

PIECE = 1 << 20
SLICE = 1 << 18
"""What is written to a connection at once: a slow one must have taken it before its time is up."""

RANGE = re.compile(r"bytes=(\d{1,19})-(\d{0,19})")
Value = TypeVar("Value")


async def caller(request: Request) -> tuple[Caller, Verified | None]:
    """A person with a token, or a node whose signature covers a body that is still to be read."""
    if "authorization" in request.headers:
        return await person(request), None
    return await signed_head(request)


@router.put("/blobs/{digest}", status_code=201, **acts("blobs.write"))
async def put_blob(request: Request, digest: str) -> Response:
    """Keep a whole blob; its bytes have to match its name."""
    who, verified = await caller(request)
    parts = context(request)
    _check_digest(digest)
    if verified is not None:
        check_body(verified, bytes.fromhex(digest))
    async with contextmanager_in_threadpool(_receiving(parts, who, digest, _promised(request))) as writer:
        async for piece in _gathered(limited(request, parts.live.quota.blob)):
            await to_thread.run_sync(writer.write, piece)
    return Response(status_code=201)


@router.get("/blobs/{digest}", **acts("blobs.read"))
@router.head("/blobs/{digest}", include_in_schema=False, **acts("blobs.read"))
async def get_blob(request: Request, digest: str) -> Response:
    """A blob's bytes, whole or ``Range: bytes=FROM-[TO]``; HEAD tells its size. A redirect leads to where they are."""
    who, verified = await caller(request)
    await no_body(request, verified)
    parts = context(request)
    _check_digest(digest)
    await read(parts, lambda tx: check_readable(tx, who, digest))
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{digest}"'}
    if request.method == "HEAD":
        path, size = None, await to_thread.run_sync(parts.artifacts.size, digest)
    elif (link := await to_thread.run_sync(parts.artifacts.link, digest)) is not None:
        return Response(status_code=307, headers={**headers, "Location": link, "Cache-Control": "no-store"})
    else:
        path, size = await to_thread.run_sync(_find, parts, digest)
    start, stop, status = _range(request.headers.get("range"), size)
    if status == 416:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    if path is None:
        return Response(status_code=status, headers=headers, media_type="application/octet-stream")
    return StreamingResponse(_pieces(path, start, stop), status, headers, "application/octet-stream")


def check_signed(verified: Verified | None, body: bytes) -> None:
    """Hold a small body against what a node signed."""
    if verified is not None:
        check_body(verified, hashlib.sha256(body).digest())


async def no_body(request: Request, verified: Verified | None) -> None:
    """Refuse a request that has a body."""
    async for _ in limited(request, 0):
        pass
    check_signed(verified, b"")


async def read(parts: Context, look: Callable[[Connection], Value]) -> Value:
    """A look into the database, in a thread."""

    def work() -> Value:
        with parts.store.reading() as tx:
            return look(tx)

    return await to_thread.run_sync(work)


@contextmanager
def _receiving(parts: Context, who: Caller, digest: str, promised: int) -> Iterator[BlobWriter]:
    """A blob that somebody sends, of ``promised`` bytes; it is theirs when the block ends."""
    quota = parts.live.quota
    with parts.store.statements() as each:
        check_room(each, digest, promised, who.actor, quota)
    with parts.artifacts.writing(digest) as writer:
        yield writer
    with parts.store.transaction("blob", scope=scope_of(who)) as tx:
        check_room(tx, digest, writer.size, who.actor, quota)
        own_blob(tx, parts.artifacts, digest, who.actor)


def _promised(request: Request) -> int:
    """The body's length, where its header tells one."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


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


async def _pieces(path: Path, start: int, stop: int) -> AsyncIterator[memoryview]:
    async with await anyio.open_file(path, "rb") as file:
        await file.seek(start)
        left = stop - start
        while left and (piece := await file.read(min(PIECE, left))):
            left -= len(piece)
            for at in range(0, len(piece), SLICE):
                yield memoryview(piece)[at : at + SLICE]


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of about a megabyte: handing each to a thread costs more than writing a small one."""
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        if len(held) >= PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _find(parts: Context, digest: str) -> tuple[Path, int]:
    path = whole(parts.live, digest)
    return path, path.stat().st_size


def _check_digest(digest: str) -> None:
    if not DIGEST.fullmatch(digest):
        raise UsageError("digest_malformed", "A blob's name is its SHA-256: 64 hexadecimal digits.")
