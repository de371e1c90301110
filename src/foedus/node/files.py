"""Files that appear whole or not at all, and their digests. Free of torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from foedus.store.crashpoints import reach


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def move_durably(source: Path, target: Path, kind: str) -> None:
    """Move a file to its place on the same disk: its bytes are on the disk before its name is.

    ``kind`` names the rename among the crash points.
    """
    _sync(source)
    move(source, target, kind)
    _sync(target.parent)


def move(source: Path, target: Path, kind: str) -> None:
    """Move a file to its place on the same disk; who reads it checks its bytes, which a power cut may have lost."""
    reach("rename", f"node_{kind}", "before")
    source.replace(target)
    reach("rename", f"node_{kind}", "after")


def write_durably(target: Path, content: bytes, kind: str) -> None:
    """Write a file that appears whole or not at all."""
    part = target.with_name(target.name + ".part")
    part.write_bytes(content)
    move_durably(part, target, kind)


def append_durably(path: Path, content: bytes) -> None:
    """Append to a file, which is made where it is not there: all of it is on the disk, or nothing was appended."""
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        before, done = os.fstat(descriptor).st_size, 0
        try:
            while done < len(content):
                done += os.write(descriptor, content[done:])
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
    if new:
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
