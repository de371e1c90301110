"""Where the bytes of blobs are kept: a port, and its first maker, a folder; the other is :mod:`foedus.store.s3`.

What can be seen on a shelf is whole. Names are made of digests and ids that this process checked or made itself; no
received name becomes a path.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from foedus.domain.errors import StorageError
from foedus.domain.spans import span
from foedus.store import crashpoints

TEMPORARY = "tmp_"


@dataclass(frozen=True)
class Kept:
    """What a shelf has: its name, its size in bytes, and when it was put there, in seconds since the epoch."""

    name: str
    size: int
    put_at: float


class Shelf(Protocol):
    """Files by name. Every method may be called from any thread."""

    def put(self, name: str, file: Path, *, lasting: bool = True) -> None:
        """Take ``file`` over, from a place that :meth:`room` named. Without ``lasting`` a power cut may lose it."""

    def find(self, name: str) -> Path | None:
        """A file of this machine with what is kept under a name; None where nothing is.

        Within :meth:`keeping` it stays; outside, for a minute.
        """

    def spoiled(self, name: str, *, again: bool) -> None:
        """What :meth:`find` gave is not what was put (``again``: nor was it the time before): never give it again."""

    def size(self, name: str) -> int | None:
        """The size in bytes of what is kept under a name, as the shelf itself says; None where nothing is."""

    def remove(self, name: str) -> None:
        """Let go of what is kept under a name, if anything is."""

    def names(self, prefix: str) -> Iterator[Kept]:
        """All that is kept under names that begin so. May be refused by the rights that the process has."""

    def link(self, name: str) -> str | None:
        """A URL under which anybody may fetch it for a short while; None where bytes go through this process."""

    def keeping(self) -> AbstractContextManager[None]:
        """What is found within the block stays at least until its end."""

    def tidy(self, before: float) -> None:
        """Remove what was half-put before a time, in seconds since the epoch."""


class FolderShelf:
    """A folder: what is put there is synced, renamed, and its directory synced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, file: Path, *, lasting: bool = True) -> None:
        """Rename it to its place."""
        target = self._folder / name
        with span("blob", operation="put"), storage_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            if lasting:
                _sync(file)
            crashpoints.reach("rename", "blob", "before")
            file.replace(target)
            crashpoints.reach("rename", "blob", "after")
            if lasting:
                _sync(target.parent)
                _sync(target.parent.parent)

    def find(self, name: str) -> Path | None:
        """The file itself."""
        path = self._folder / name
        return path if path.is_file() else None

    def spoiled(self, name: str, *, again: bool) -> None:
        """Set it aside, for who wants to know what became of it."""
        aside = self._folder / "spoiled"
        aside.mkdir(exist_ok=True)
        (self._folder / name).replace(aside / name.replace("/", "_"))

    def size(self, name: str) -> int | None:
        """From the directory."""
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Unlink it."""
        (self._folder / name).unlink(missing_ok=True)

    def names(self, prefix: str) -> Iterator[Kept]:
        """Every file below a folder."""
        for path in (self._folder / prefix).rglob("*"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file() and not path.name.startswith(TEMPORARY):
                yield Kept(path.relative_to(self._folder).as_posix(), stat.st_size, stat.st_mtime)

    def link(self, name: str) -> str | None:
        """There is none."""
        return None

    def keeping(self) -> AbstractContextManager[None]:
        """Nothing goes by itself."""
        return nullcontext()

    def tidy(self, before: float) -> None:
        """There is nothing: files on their way here lie with who puts them."""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Tell of a full disk.

    Raises:
        StorageError: ``disk_full``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError("disk_full", "The disk is full.", "", "Make room; nothing confirmed is lost.") from error
        raise
