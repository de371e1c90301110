"""Blobs on a node: a cache by SHA-256 that stays within its room, resumable downloads, resumable uploads. No torch."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from foedus.domain.errors import ConflictError, FoedusError, IntegrityError, NotFoundError, TooLargeError
from foedus.node.files import move, sha256_of
from foedus.node.transport import IDLE, Link, passing
from foedus.wire.http import UPLOAD_OFFSET, elsewhere, from_status, malformed
from foedus.wire.messages import NewUpload, UploadView
from foedus.wire.tls import broken

CHUNK = 8 << 20
"""Bytes of the largest blob that goes up in one piece, and of the pieces of larger ones."""

CONFLICTS = 5
"""Disagreements in a row about how far an upload is, after which it is given up."""

DIGEST = re.compile(r"[0-9a-f]{64}")
RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]+/(?:[0-9]+|\*)")
OFFSET = re.compile(r"[0-9]{1,15}")

Moved = Callable[[], None]


class Cache:
    """Downloaded blobs below ``folder``: ``room`` bytes in all, the least recently used go first; ``limit`` for one.

    None has to last, so none is waited for to be on the disk: one of an earlier process is checked when it is used.
    """

    def __init__(self, folder: Path, room: int, limit: int) -> None:
        self._folder, self._room, self._limit = folder, room, limit
        self._whole = set[str]()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def fetch(
        self, link: Link, digest: str, moved: Moved, needed: Collection[str] = (), limit: int | None = None
    ) -> Path:
        """The file of a blob, downloaded if it is not here; waits for the coordinator as long as it takes.

        ``moved`` is called when bytes arrive; ``needed`` are other blobs that may not make room for this one;
        ``limit`` is the largest that it may be, where that is less than usual.

        Raises:
            IntegrityError: ``blob_corrupt``. TooLargeError: ``blob_too_large``. NotFoundError: as the coordinator says.
        """
        if not DIGEST.fullmatch(digest):
            raise IntegrityError("digest_malformed", "A blob's name is not a SHA-256.")
        path = self._folder / digest
        most = self._limit if limit is None else min(limit, self._limit)
        if path.is_file():
            if path.stat().st_size > most:
                raise _too_large(most)
            if digest in self._whole or await asyncio.to_thread(sha256_of, path) == digest:
                self._whole.add(digest)
                path.touch()
                return path
            path.unlink()
        part = self._folder / f"{digest}.part"
        try:
            await link.retried(lambda: _receive(link, digest, part, most, moved))
        except TooLargeError:
            part.unlink(missing_ok=True)
            raise
        if await asyncio.to_thread(sha256_of, part) != digest:
            part.unlink()
            raise IntegrityError("blob_corrupt", "The bytes received are not the blob's.", "", "It is fetched again.")
        move(part, path, "blob")
        self._whole.add(digest)
        self.clean({digest, *needed})
        return path

    def keep(self, digest: str, content: bytes) -> None:
        """Take a small blob that came within a message. What cannot be kept, or is something else, is fetched later."""
        # A download of the same blob may be going on, and appends to its own part.
        path, part = self._folder / digest, self._folder / f"{digest}.told"
        if path.is_file() or hashlib.sha256(content).hexdigest() != digest:
            return
        try:
            part.write_bytes(content)
            move(part, path, "blob")
        except OSError:
            return
        self._whole.add(digest)
        self.clean({digest})

    def clean(self, needed: Collection[str]) -> None:
        """Remove what was not used for the longest time until the rest has room."""
        files = [(file.stat(), file) for file in self._folder.iterdir() if file.name.partition(".")[0] not in needed]
        kept = [self._folder / digest for digest in needed]
        total = sum(stat.st_size for stat, _ in files) + sum(file.stat().st_size for file in kept if file.is_file())
        for stat, file in sorted(files, key=lambda found: found[0].st_mtime_ns):
            if total <= self._room:
                return
            file.unlink(missing_ok=True)
            self._whole.discard(file.name)
            total -= stat.st_size


async def upload(link: Link, file: Path, moved: Moved) -> str:
    """Bring a file to the coordinator, unless it has it; returns its SHA-256. Waits as long as it takes.

    Raises:
        FoedusError: where the coordinator refuses it.
    """
    digest, size = await asyncio.to_thread(sha256_of, file), file.stat().st_size
    if size <= CHUNK:
        content = file.read_bytes()
        await link.retried(lambda: link.send("PUT", f"/blobs/{digest}", content, _BYTES))
    elif not await _is_there(link, digest):
        await _upload_in_chunks(link, file, digest, size, moved)
    moved()
    return digest


_BYTES = {"Content-Type": "application/octet-stream"}


async def _is_there(link: Link, digest: str) -> bool:
    try:
        await link.retried(lambda: link.send("HEAD", f"/blobs/{digest}"))
    except NotFoundError:
        return False
    return True


async def _upload_in_chunks(link: Link, file: Path, digest: str, size: int, moved: Moved) -> None:
    message = NewUpload(digest=digest, size=size)
    view = await link.retried(lambda: link.post("/uploads", message, UploadView))
    path, offset, complete, failures = f"/uploads/{view.id}", view.offset, view.complete, 0
    while not complete:
        try:
            view = await _patch(link, path, file, offset)
            if view.offset <= offset and not view.complete:
                raise malformed(link.url, f"The upload stays at byte {offset} of {size}.")
            offset, complete, failures = view.offset, view.complete, 0
            moved()
        except FoedusError as error:
            if not passing(error) and not (isinstance(error, ConflictError) and failures < CONFLICTS):
                raise
            failures += 1
            await link.pause(error, failures)
            # The chunk may have arrived although its reply did not; the last one makes the upload a blob.
            complete = await _is_there(link, digest)
            offset = size if complete else await _offset(link, path)


async def _patch(link: Link, path: str, file: Path, offset: int) -> UploadView:
    with file.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(CHUNK)
    answer = await link.send("PATCH", path, content, {UPLOAD_OFFSET: str(offset), **_BYTES})
    return link.parsed(UploadView, answer.content)


async def _offset(link: Link, path: str) -> int:
    text = (await link.retried(lambda: link.send("HEAD", path))).headers.get(UPLOAD_OFFSET, "")
    if not OFFSET.fullmatch(text):
        raise malformed(link.url, f"The upload's {UPLOAD_OFFSET} is missing.")
    return int(text)


@asynccontextmanager
async def _opened(link: Link, digest: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
    """The reply with the blob's bytes: the coordinator's, or the storage's that it names. No name goes there."""
    async with link.stream("GET", f"/blobs/{digest}", headers=headers) as response:
        place = elsewhere(response.status_code, response.headers.get("location", ""), link.url)
        if place is None:
            yield response
            return
    host = urlsplit(place).netloc
    try:
        async with (
            httpx.AsyncClient(timeout=IDLE) as client,
            client.stream("GET", place, headers=headers) as response,
        ):
            if response.status_code >= 300:
                raise from_status(response.status_code, host)
            yield response
    except httpx.HTTPError as error:
        raise broken(host, error) from error


async def _receive(link: Link, digest: str, part: Path, limit: int, moved: Moved) -> None:
    """Append to ``part`` what it lacks of the blob."""
    at = part.stat().st_size if part.is_file() else 0
    try:
        async with _opened(link, digest, {"Range": f"bytes={at}-"} if at else {}) as response:
            span = RANGE.fullmatch(response.headers.get("content-range", ""))
            if response.status_code != 206 or span is None or int(span.group(1)) != at:
                at = 0
            with part.open("ab" if at else "wb") as file:
                async for chunk in response.aiter_raw():
                    at += len(chunk)
                    if at > limit:
                        raise _too_large(limit)
                    file.write(chunk)
                    moved()
    except FoedusError as error:
        if not at or passing(error) or isinstance(error, TooLargeError):
            raise
        # What an earlier attempt left may be the whole blob, of which there is no further range; its digest will tell.
        if await asyncio.to_thread(sha256_of, part) != digest:
            part.unlink()
            await _receive(link, digest, part, limit, moved)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError("blob_too_large", f"The blob is over {limit} bytes.")
