"""Blobs as files under their SHA-256. What can be seen is whole: written aside, synced, renamed, directory synced.

A blob is there before a row names it, so a missing blob is impossible and an unnamed one is only rubbish. File names
are digests and ids that this process checked or made; no received name becomes a path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from foedus.domain.errors import ConflictError, IntegrityError, NotFoundError, StorageError, UsageError
from foedus.store import crashpoints

DIGEST = re.compile(r"[0-9a-f]{64}")
UPLOAD = re.compile(r"up_[0-9a-z]{1,40}")
UPLOAD_DAYS = 7
"""Days after which an upload that nobody went on with is removed at start-up."""


class BlobWriter:
    """A file being written, and the digest of what was written so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes | memoryview) -> None:
        """Append ``chunk``."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    @property
    def digest(self) -> str:
        """The SHA-256 of what was written."""
        return self._digest.hexdigest()


class UploadWriter:
    """Appends to an upload until another request appends to it, or it is finished: then this one writes nothing more.

    A request whose connection hangs must neither hold up the next nor write to a blob that was checked already.
    """

    def __init__(self, file: FileIO, lock: threading.Lock, writers: dict[str, UploadWriter], upload: str) -> None:
        self._file = file
        self._lock = lock
        self._writers = writers
        self._upload = upload
        self._start = file.tell()

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``.

        Raises:
            ConflictError: ``upload_taken_over``.
        """
        left = memoryview(chunk)
        with self._lock:
            if self._writers.get(self._upload) is not self:
                raise ConflictError("upload_taken_over", "Another request goes on with this upload.")
            while left:
                left = left[self._file.write(left) :]

    def take_back(self) -> None:
        """Remove what this writer has appended, unless another went on from there."""
        with self._lock:
            if self._writers.get(self._upload) is self:
                self._file.truncate(self._start)


class Artifacts:
    """A folder of blobs, and of uploads on their way."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._partial = folder / "partial"
        self._lock = threading.Lock()
        self._writers: dict[str, UploadWriter] = {}
        for made in (self._blobs, self._partial):
            made.mkdir(parents=True, exist_ok=True)

    def recover(self) -> None:
        """Remove what an earlier process left half-written, but of uploads, which may be resumed, only old ones."""
        old = time.time() - UPLOAD_DAYS * 86400
        for left in self._partial.iterdir():
            if left.name.startswith("tmp_") or left.stat().st_mtime < old:
                left.unlink(missing_ok=True)

    def path(self, digest: str) -> Path:
        """The file of a blob that is there.

        Raises:
            NotFoundError: ``blob_unknown``.
        """
        path = self._place(digest)
        if not path.is_file():
            raise NotFoundError("blob_unknown", f"There is no blob {digest[:12]}… here.")
        return path

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self._place(digest).is_file()

    def size(self, digest: str) -> int:
        """The blob's size in bytes."""
        return self.path(digest).stat().st_size

    def put_bytes(self, content: bytes) -> str:
        """Keep ``content``; returns its digest."""
        with self.writing() as writer:
            writer.write(content)
        return writer.digest

    @contextmanager
    def writing(self, expected: str | None = None) -> Iterator[BlobWriter]:
        """Write a blob; it is there when the block ends, and nothing is where the block fails.

        Raises:
            IntegrityError: ``digest_mismatch`` where the bytes are not those of ``expected``.
            StorageError: ``disk_full``.
        """
        temporary = self.temporary()
        try:
            with _storage_errors(), temporary.open("xb") as file:
                writer = BlobWriter(file)
                yield writer
            if expected is not None and writer.digest != expected:
                raise _mismatch(expected)
            self.adopt(temporary, writer.digest)
        finally:
            temporary.unlink(missing_ok=True)

    def temporary(self) -> Path:
        """A name for a file on the blobs' disk; :meth:`recover` removes it if it is left."""
        return self._partial / f"tmp_{secrets.token_hex(16)}"

    def adopt(self, file: Path, digest: str) -> None:
        """Make a finished file of this folder the blob ``digest``, whose bytes the caller has hashed."""
        target = self._place(digest)
        with _storage_errors():
            _sync(file)
            target.parent.mkdir(exist_ok=True)
            crashpoints.reach("rename", "blob", "before")
            file.replace(target)
            crashpoints.reach("rename", "blob", "after")
            _sync(target.parent)
            _sync(self._blobs)

    def verify(self, digest: str) -> None:
        """Read the whole blob.

        Raises:
            IntegrityError: ``digest_mismatch`` where a bit has flipped.
        """
        if hash_file(self.path(digest)) != digest:
            raise _mismatch(digest)

    def offset(self, upload: str) -> int:
        """How many bytes of an upload are there."""
        path = self._upload(upload)
        return path.stat().st_size if path.is_file() else 0

    @contextmanager
    def appending(self, upload: str, offset: int) -> Iterator[UploadWriter]:
        """Append to an upload, which has to have ``offset`` bytes now; what was written before an error stays.

        Raises:
            ConflictError: ``upload_offset``.
            StorageError: ``disk_full``.
        """
        path = self._upload(upload)
        with _storage_errors(), path.open("ab", buffering=0) as file:
            with self._lock:
                have = file.seek(0, os.SEEK_END)
                if offset != have:
                    raise ConflictError(
                        "upload_offset",
                        f"The upload has {have} bytes; the request begins at {offset}.",
                        "",
                        f"Go on at {have}.",
                    )
                writer = self._writers[upload] = UploadWriter(file, self._lock, self._writers, upload)
            try:
                yield writer
            finally:
                self._forget(upload, writer)

    def finish(self, upload: str, digest: str) -> None:
        """Make a complete upload the blob ``digest``; one whose bytes differ is removed.

        Raises:
            IntegrityError: ``digest_mismatch``.
        """
        path = self._upload(upload)
        self._forget(upload)
        try:
            if hash_file(path) != digest:
                path.unlink()
                raise _mismatch(digest)
            self.adopt(path, digest)
        except FileNotFoundError:
            self.path(digest)

    def writable(self) -> bool:
        """Whether a file can be written here now."""
        probe = self.temporary()
        try:
            probe.write_bytes(b"?")
            probe.unlink()
        except OSError:
            return False
        return True

    def _forget(self, upload: str, writer: UploadWriter | None = None) -> None:
        """Let ``writer``, or whoever it is, write no more to an upload."""
        with self._lock:
            if writer is None or self._writers.get(upload) is writer:
                self._writers.pop(upload, None)

    def _place(self, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            raise UsageError("digest_malformed", "A digest is 64 hexadecimal digits.")
        return self._blobs / digest[:2] / digest[2:]

    def _upload(self, upload: str) -> Path:
        if not UPLOAD.fullmatch(upload):
            raise NotFoundError("upload_unknown", "There is no such upload.")
        return self._partial / upload


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mismatch(digest: str) -> IntegrityError:
    return IntegrityError(
        "digest_mismatch", f"The bytes are not those of {digest[:12]}….", "Their SHA-256 differs.", "Send them again."
    )


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError("disk_full", "The disk is full.", "", "Make room; nothing confirmed is lost.") from error
        raise
