"""How a node sees that a file or folder of the owner's is not what it was: a cheap look, and a digest of the bytes.

A look reads no data: sizes, times and inodes of files. Only where it differs from the last one are the bytes read. Free
of torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from foedus.domain.errors import DataError

SKIPPED = "__pycache__"
"""A folder that Python makes beside a loader; nobody's data."""

PIECE = 8 << 20
"""Bytes that are read at once."""


def look(place: Path) -> str:
    """What the file system says of a file, or of every file of a folder: sizes, times and inodes, in 64 hex digits.

    The time at which an inode changed is among them: nobody can set that one back.

    Raises:
        DataError: ``dataset_unreadable``.
    """
    found = hashlib.sha256()
    for name, path in files_of(place):
        seen = path.stat()
        found.update(f"{name}\0{seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns} {seen.st_ino}\n".encode())
    return found.hexdigest()


def digest_of(place: Path, moved: Callable[[], None]) -> str:
    """SHA-256 of a file, or of a folder's names and files; ``moved`` is called as bytes are read.

    Raises:
        DataError: ``dataset_unreadable``.
    """
    if not place.is_dir():
        return _sha256(place, moved)
    found = hashlib.sha256()
    for name, path in files_of(place):
        found.update(f"{name}\0{_sha256(path, moved)}\n".encode())
    return found.hexdigest()


def pieces(path: Path, moved: Callable[[], None]) -> Iterator[bytes]:
    """A file's bytes; ``moved`` is called after each piece.

    Raises:
        DataError: ``dataset_unreadable``.
    """
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
                moved()
    except OSError as error:
        _refuse(error)


def files_of(place: Path) -> Iterator[tuple[str, Path]]:
    """A file without a name, or every file below a folder by its name there, in the order of folders and names.

    Raises:
        DataError: ``dataset_unreadable`` where a folder cannot be looked into.
    """
    if not place.is_dir():
        if not place.is_file():
            _refuse(FileNotFoundError())
        yield "", place
        return
    for folder, below, names in os.walk(place, onerror=_refuse):
        below[:] = sorted(set(below) - {SKIPPED})
        for path in (Path(folder, name) for name in sorted(names)):
            if path.is_file():
                yield str(path.relative_to(place)), path


def _sha256(path: Path, moved: Callable[[], None]) -> str:
    found = hashlib.sha256()
    for piece in pieces(path, moved):
        found.update(piece)
    return found.hexdigest()


def _refuse(error: OSError) -> None:
    raise DataError(
        "dataset_unreadable",
        "The node may not read the dataset.",
        "It belongs to another user of this machine, or is gone.",
        "Run the node as the user whose it is, or let the node's user read it, and look into the folders above it: "
        "`setfacl -R -m u:USER:rX PLACE`.",
    ) from error
