"""Blobs under their SHA-256, on a shelf: a folder, or a bucket of S3-compatible storage. What is read is verified.

A blob is there before a row names it, so a missing blob is impossible and an unnamed one is only rubbish. A file is
hashed when it is first read, again where it was written to since, and after an hour: bytes that are not a blob's are
never given to anybody.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from foedus.domain.errors import ConfigError, IntegrityError, NotFoundError, StorageError, UsageError
from foedus.store.buckets import parse_bucket
from foedus.store.shelves import TEMPORARY, FolderShelf, Shelf, storage_errors

DIGEST = re.compile(r"[0-9a-f]{64}")
PROVEN_SECONDS = 3600.0
"""For how long a file whose times did not change is taken for what it was."""

PROVEN_FILES = 10_000
PIECE = 1 << 20
CACHE_ROOM = 20 << 30
"""Bytes of disk for blobs that are kept elsewhere; see :mod:`foedus.store.cache`."""

log = logging.getLogger("foedus.store")
Times = tuple[int, int, int, int]


class BlobWriter:
    """A file being written, and the digest of what was written so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes | memoryview | bytearray) -> None:
        """Append ``chunk``."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    @property
    def digest(self) -> str:
        """The SHA-256 of what was written."""
        return self._digest.hexdigest()


class Artifacts:
    """Blobs, and parts of uploads on their way. ``folder`` is this process's own; ``shelf`` may be others' as well."""

    def __init__(self, folder: Path, shelf: Shelf | None = None) -> None:
        self._partial = folder / "partial"
        for made in (folder / "blobs", self._partial):
            made.mkdir(parents=True, exist_ok=True)
        self._shelf = shelf or FolderShelf(folder)
        self._proven: OrderedDict[str, tuple[Times, float]] = OrderedDict()
        self._lock, self._locks = Lock(), tuple(Lock() for _ in range(64))

    def recover(self) -> None:
        """Remove the files that an earlier process left half-written."""
        for left in self._partial.glob(f"{TEMPORARY}*"):
            left.unlink(missing_ok=True)

    def path(self, digest: str) -> Path:
        """A file with the blob's bytes, verified. It stays within :meth:`keeping`; outside, for a minute.

        Raises:
            NotFoundError: ``blob_unknown``. StorageError: ``blob_spoiled``, ``disk_full``, ``storage_refused``.
            UnreachableError: ``storage_unreachable``.
        """
        name, spoiled = _name(digest), False
        with self._locks[int(digest[:4], 16) % len(self._locks)]:
            for _ in range(2):  # a file of a cache that was spoiled here is fetched once more
                found = self._shelf.find(name)
                if found is not None and self._is_itself(digest, found):
                    return found
                if found is None and not spoiled:
                    raise NotFoundError("blob_unknown", f"There is no blob {digest[:12]}… here.")
                if found is not None:
                    log.error("the blob %s is spoiled: its bytes are not those that were stored", digest)
                    self._shelf.spoiled(name, again=spoiled)
                    spoiled = True
        raise StorageError(
            "blob_spoiled",
            f"The blob {digest[:12]}… is spoiled.",
            "Its stored bytes changed since they were written; they were set aside, and nobody was given them.",
            "Check the disk, and bring the blob back from a backup: `foedus coordinator check` lists what is wrong.",
        )

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self._shelf.size(_name(digest)) is not None

    def size(self, digest: str) -> int:
        """The blob's size in bytes.

        Raises:
            NotFoundError: ``blob_unknown``.
        """
        size = self._shelf.size(_name(digest))
        if size is None:
            raise NotFoundError("blob_unknown", f"There is no blob {digest[:12]}… here.")
        return size

    def link(self, digest: str) -> str | None:
        """Where whoever may read the blob fetches it, if not from this process."""
        return self._shelf.link(_name(digest))

    def keeping(self) -> AbstractContextManager[None]:
        """The files that :meth:`path` gives within the block stay at least until its end."""
        return self._shelf.keeping()

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
            with storage_errors(), temporary.open("xb") as file:
                writer = BlobWriter(file)
                yield writer
            if expected is not None and writer.digest != expected:
                raise _mismatch(expected)
            self.adopt(temporary, writer.digest)
        finally:
            temporary.unlink(missing_ok=True)

    def temporary(self) -> Path:
        """A name for a file on the blobs' disk; :meth:`recover` removes it if it is left."""
        return self._partial / f"{TEMPORARY}{secrets.token_hex(16)}"

    def adopt(self, file: Path, digest: str) -> None:
        """Make a finished file of :meth:`temporary` the blob ``digest``, whose bytes the caller has hashed."""
        name = _name(digest)
        self._shelf.put(name, file)
        if (found := self._shelf.find(name)) is not None:
            self._remember(digest, found)

    def remove(self, digest: str) -> None:
        """Delete a blob, if it is there; no row may name it."""
        self._shelf.remove(_name(digest))

    def kept(self) -> Iterator[tuple[str, float]]:
        """The digest of every blob that is there, named or not, and when it was put there, in Unix seconds.

        Raises:
            StorageError: ``storage_refused`` where listing is not allowed.
        """
        for each in self._shelf.names("blobs/"):
            digest = each.name.removeprefix("blobs/").replace("/", "")
            if DIGEST.fullmatch(digest):
                yield digest, each.put_at

    def kept_parts(self) -> Iterator[tuple[str, float]]:
        """The name of every part that is there, named by a row or not, and when it was put there, in Unix seconds.

        Raises:
            StorageError: ``storage_refused`` where listing is not allowed.
        """
        for each in self._shelf.names("partial/"):
            yield each.name.removeprefix("partial/"), each.put_at

    def tidy(self, before: float) -> None:
        """Remove what somebody began to put before a time, in Unix seconds, and did not finish.

        Raises:
            StorageError: ``storage_refused`` where listing is not allowed.
        """
        for left in self._partial.glob(f"{TEMPORARY}*"):
            if left.stat().st_mtime < before:
                left.unlink(missing_ok=True)
        self._shelf.tidy(before)

    def keep_part(self, file: Path) -> str:
        """Take over a file of :meth:`temporary` as part of an upload; returns the part's name, which a row is to hold.

        Raises:
            StorageError: ``disk_full``.
        """
        part = secrets.token_hex(16)
        self._shelf.put(f"partial/{part}", file, lasting=False)
        return part

    def drop_parts(self, parts: Iterable[str]) -> None:
        """Remove parts, if they are there; no row names them any more."""
        for part in parts:
            self._shelf.remove(f"partial/{part}")

    def join(self, parts: Iterable[str], digest: str) -> int:
        """Make the blob ``digest`` of an upload's parts; returns its size in bytes.

        Raises:
            IntegrityError: ``digest_mismatch``. StorageError: ``disk_full``.
        """
        with self.writing(digest) as writer:
            for part in parts:
                found = self._shelf.find(f"partial/{part}")
                if found is None:
                    raise _mismatch(digest)
                with found.open("rb") as file:
                    while chunk := file.read(PIECE):
                        writer.write(chunk)
        return writer.size

    def writable(self) -> bool:
        """Whether a file can be written here now."""
        probe = self.temporary()
        try:
            probe.write_bytes(b"?")
            probe.unlink()
        except OSError:
            return False
        return True

    def _is_itself(self, digest: str, file: Path) -> bool:
        times = _times(file)
        with self._lock:
            known = self._proven.get(digest)
        if known is not None and known[0] == times and time.monotonic() - known[1] < PROVEN_SECONDS:
            return True
        if hash_file(file) != digest:
            return False
        self._remember(digest, file)
        return True

    def _remember(self, digest: str, file: Path) -> None:
        with self._lock:
            self._proven[digest] = _times(file), time.monotonic()
            self._proven.move_to_end(digest)
            while len(self._proven) > PROVEN_FILES:
                self._proven.popitem(last=False)


def open_artifacts(folder: Path, url: str = "", room: int = CACHE_ROOM) -> Artifacts:
    """The blobs that a setting names: ``folder`` itself, or a bucket (see :func:`foedus.store.buckets.parse_bucket`).

    Raises:
        ConfigError: ``blobs_url``, ``extra_missing``.
    """
    if not url:
        return Artifacts(folder)
    bucket = parse_bucket(url)
    try:
        from foedus.store.s3 import BucketShelf
    except ModuleNotFoundError as error:
        raise ConfigError("extra_missing", "S3 needs an extra.", str(error), "pip install 'foedus[s3]'") from error
    return Artifacts(folder, BucketShelf(bucket, folder, room))


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _times(file: Path) -> Times:
    """What changes when a file is written to; the last of these nobody can set back."""
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _name(digest: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise UsageError("digest_malformed", "A digest is 64 hexadecimal digits.")
    return f"blobs/{digest[:2]}/{digest[2:]}"


def _mismatch(digest: str) -> IntegrityError:
    return IntegrityError(
        "digest_mismatch", f"The bytes are not those of {digest[:12]}….", "Their SHA-256 differs.", "Send them again."
    )
