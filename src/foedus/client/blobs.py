"""Blobs, named by their SHA-256: up in one piece or, when large, in chunks that resume; down with ranges, verified."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx

from foedus.client.http import Connection, parse
from foedus.domain.errors import (
    ConflictError,
    FoedusError,
    IntegrityError,
    NotFoundError,
    StorageError,
    TooLargeError,
    UsageError,
)
from foedus.wire.http import UPLOAD_OFFSET, elsewhere, from_status, malformed, transient
from foedus.wire.messages import NewUpload, UploadView
from foedus.wire.tls import broken

CHUNK = 8 << 20
"""Bytes of the largest blob that goes up in one piece, and of the pieces of larger ones."""

READ = 1 << 20
IDLE = 60.0
"""Seconds without a byte after which a transfer from a storage is begun anew, from there."""

BLOB_LIMIT = 2**40
DIGEST = re.compile(r"[0-9a-f]{64}")
RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]+/(?:[0-9]+|\*)")
OFFSET = re.compile(r"[0-9]{1,15}")


def upload(connection: Connection, source: Path | bytes) -> str:
    """Bring a file or bytes to the coordinator, unless it has them; return their SHA-256.

    Raises:
        FoedusError: the coordinator's own error, or an :class:`UnreachableError` when retries did not help.
        StorageError: ``file_unreadable``.
    """
    try:
        with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
            digest, size = _hash(stream)
            if not _is_there(connection, digest):
                _upload(connection, stream, digest, size)
            return digest
    except OSError as error:
        raise StorageError("file_unreadable", f"{source!s} cannot be read.", error.strerror or "") from error


def download(connection: Connection, digest: str, target: Path, limit: int = BLOB_LIMIT) -> Path:
    """Fetch a blob of at most ``limit`` bytes into ``target``, which appears whole and verified, or not at all.

    What an earlier attempt left beside ``target`` (``.NAME.DIGEST.part``) is gone on with.

    Raises:
        IntegrityError: ``blob_corrupt`` where the bytes are not those of the digest.
        TooLargeError: ``blob_too_large``.
        StorageError: ``disk_full`` or ``file_unwritable``.
        FoedusError: the coordinator's own error, or an :class:`UnreachableError` when retries did not help.
    """
    if not DIGEST.fullmatch(digest):
        raise UsageError("digest_malformed", f"{digest[:80]!a} is not a SHA-256.", "", "Give 64 hex digits.")
    part = target.with_name(f".{target.name}.{digest[:16]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if _fetch(connection, digest, part, limit) != digest:
            part.unlink()
            raise IntegrityError("blob_corrupt", "The bytes received are not the blob's.", "", "Download it again.")
        part.replace(target)
    except OSError as error:
        code = "disk_full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "file_unwritable"
        raise StorageError(
            code, f"{target} cannot be written.", error.strerror or "", "Choose another place."
        ) from error
    return target


def _hash(stream: BinaryIO) -> tuple[str, int]:
    hasher, size = hashlib.sha256(), 0
    while chunk := stream.read(READ):
        hasher.update(chunk)
        size += len(chunk)
    return hasher.hexdigest(), size


def _is_there(connection: Connection, digest: str) -> bool:
    try:
        connection.retried(lambda: connection.send("HEAD", f"/blobs/{digest}"))
    except NotFoundError:
        return False
    return True


def _upload(connection: Connection, stream: BinaryIO, digest: str, size: int) -> None:
    stream.seek(0)
    if size <= CHUNK:
        content = stream.read(size)
        connection.retried(lambda: connection.send("PUT", f"/blobs/{digest}", content))
    else:
        _upload_in_chunks(connection, stream, digest, size)


def _upload_in_chunks(connection: Connection, stream: BinaryIO, digest: str, size: int) -> None:
    view = connection.post("/uploads", UploadView, NewUpload(digest=digest, size=size))
    path, offset, complete, failures = f"/uploads/{view.id}", view.offset, view.complete, 0
    while not complete:
        try:
            view = _patch(connection, path, stream, offset)
            if view.offset <= offset and not view.complete:
                raise malformed(connection.url, f"The upload stays at byte {offset} of {size}.")
            offset, complete, failures = view.offset, view.complete, 0
        except FoedusError as error:
            failures += 1
            if failures >= connection.retry.attempts or not (transient(error) or isinstance(error, ConflictError)):
                raise
            connection.wait(failures)
            # The chunk may have arrived although its reply did not; the last one makes the upload a blob.
            complete = _is_there(connection, digest)
            offset = size if complete else _offset(connection, path)


def _patch(connection: Connection, path: str, stream: BinaryIO, offset: int) -> UploadView:
    stream.seek(offset)
    headers = {UPLOAD_OFFSET: str(offset), "Content-Type": "application/octet-stream"}
    return parse(UploadView, connection.send("PATCH", path, stream.read(CHUNK), headers).content, connection.url)


def _offset(connection: Connection, path: str) -> int:
    headers = connection.retried(lambda: connection.send("HEAD", path)).headers
    text = headers.get(UPLOAD_OFFSET, "")
    if not OFFSET.fullmatch(text):
        raise malformed(connection.url, f"The upload's {UPLOAD_OFFSET} is missing.")
    return int(text)


def _fetch(connection: Connection, digest: str, part: Path, limit: int) -> str:
    """Bring ``part`` to its end and return its SHA-256. As long as bytes arrive, it goes on."""
    failures = 0
    with part.open("a+b") as file:
        file.seek(0)
        if _hash(file)[0] == digest:
            return digest
        while True:
            before = file.tell()
            try:
                _receive(connection, digest, file, limit)
                file.seek(0)
                return _hash(file)[0]
            except FoedusError as error:
                failures = 1 if file.tell() > before else failures + 1
                if (not transient(error) and before == 0) or failures >= connection.retry.attempts:
                    raise
                if not transient(error):
                    # What an earlier attempt left may be longer than the blob, and no range of it.
                    file.truncate(0)
            connection.wait(failures)


@contextmanager
def _opened(connection: Connection, digest: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The reply with the blob's bytes: the coordinator's, or the storage's that it names. No token goes there."""
    with connection.stream("GET", f"/blobs/{digest}", headers=headers) as response:
        place = elsewhere(response.status_code, response.headers.get("location", ""), connection.url)
        if place is None:
            yield response
            return
    try:
        with httpx.stream("GET", place, headers=headers, timeout=IDLE) as response:
            if response.status_code >= 300:
                raise from_status(response.status_code, urlsplit(place).netloc)
            yield response
    except httpx.HTTPError as error:
        raise broken(urlsplit(place).netloc, error) from error


def _receive(connection: Connection, digest: str, file: BinaryIO, limit: int) -> None:
    """Append what ``file`` lacks."""
    at = file.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={at}-"} if at else {}
    with _opened(connection, digest, headers) as response:
        span = RANGE.fullmatch(response.headers.get("content-range", ""))
        if response.status_code != 206 or span is None or int(span.group(1)) != at:
            if response.status_code == 206:
                raise malformed(connection.url, "It sends another range than the one asked for.")
            at = 0
            file.truncate(0)
        for chunk in response.iter_raw():
            at += len(chunk)
            if at > limit:
                raise TooLargeError("blob_too_large", f"The blob is over {limit} bytes.", "", "Raise the limit.")
            file.write(chunk)
        file.flush()
