"""What the node keeps of a dataset for a run: a query's rows, and copies of what only root may read. Free of torch.

A query of the owner's is read by the agent, once per run, into a file that the work process sees. So a plan sees
neither the database nor its URL, and a run's rounds all see the same rows. A sandbox of root's is somebody else, who
may not read what is root's alone: there a run is shown a copy, and the owner's file stays as closed as it was. The
folder is the node's alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from foedus.data.owned import Reading
from foedus.data.query import snapshot
from foedus.domain.errors import DataError
from foedus.node.files import move_durably
from foedus.node.looks import digest_of, files_of, pieces
from foedus.node.policy import read_policy
from foedus.node.vault import Dataset

FOLDER = "snapshots"

_reading = threading.Lock()
"""Held while something is read: of an ask that was let go the reading goes on, and the next ask finds what it wrote."""


def place_of(home: Path, run: str, dataset: Dataset, moved: Callable[[], None]) -> tuple[Path, Reading]:
    """Where a run finds the dataset, and how it is read: the owner's own place, or a query's snapshot.

    Raises:
        ConfigError, DataError: as :func:`foedus.data.query.snapshot`.
    """
    if dataset.kind != "sql":
        return dataset.path, dataset.reading
    # A run's id is the coordinator's word: it becomes no name of a file.
    path = _folder(home) / f"{_name(dataset.client)}-{_name(run, str(dataset.added_at))}.csv"
    with _reading:
        if not path.is_file():
            part = path.with_suffix(".part")
            snapshot(dataset.path, part, moved)
            part.chmod(0o644)  # inside the sandbox another user reads it; outside, the folder is closed to others
            move_durably(part, path, "snapshot")
    return path, dataset.reading.model_copy(update={"kind": "csv"})


def copy_of(home: Path, dataset: Dataset, digest: str) -> Path:
    """Where the copy of these bytes of a dataset is, or would be; its ending tells the format."""
    return home / FOLDER / f"{_name(dataset.client)}-{digest[:32]}{dataset.path.suffix}"


def needs_copy(home: Path, place: Path) -> bool:
    """Whether this node's sandbox is somebody else, who may not read all of a file or folder.

    Raises:
        ConfigError: where the node's policy is malformed. DataError: ``dataset_unreadable``.
    """
    if os.geteuid() != 0 or read_policy(home).sandbox == "off":
        return False
    names = [Path(name) for name, _ in files_of(place)]
    return not all(_is_open(place / each) for each in {Path(), *names, *(up for name in names for up in name.parents)})


def copy(home: Path, dataset: Dataset, digest: str, moved: Callable[[], None]) -> Path:
    """Copy a dataset whose bytes have this digest, unless there is a copy; others may read it, and not the folder.

    Raises:
        DataError: ``dataset_unreadable`` where it changes meanwhile. OSError: where there is no room.
    """
    target = copy_of(home, dataset, digest)
    with _reading:
        if not target.exists():
            part = _folder(home) / f"{target.name}.part"
            _remove(part)
            for name, path in files_of(dataset.path):
                _copy(path, part / name if name else part, moved)
            if digest_of(part, moved) != digest:
                _remove(part)
                raise DataError("dataset_unreadable", "The dataset changes while it is read.", "", "Try again then.")
            move_durably(part, target, "snapshot")
    os.utime(target)  # it is of use
    return target


def forget(home: Path, before: float) -> None:
    """Remove what was of use to runs more than so many seconds ago: a run that asks again reads anew."""
    for path in (home / FOLDER).glob("*"):
        if path.stat().st_mtime < time.time() - before:
            _remove(path)


def forget_dataset(home: Path, client: str) -> None:
    """Remove all that is kept here of a dataset's rows."""
    for path in (home / FOLDER).glob(f"{_name(client)}-*"):
        _remove(path)


def _folder(home: Path) -> Path:
    folder = home / FOLDER
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def _name(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


def _copy(source: Path, target: Path, moved: Callable[[], None]) -> None:
    for folder in reversed([each for each in target.parents if not each.exists()]):
        folder.mkdir()
        folder.chmod(0o755)
    with target.open("wb") as file:
        for piece in pieces(source, moved):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    target.chmod(0o644)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_open(path: Path) -> bool:
    """Whether everybody may read a file, or look into a folder; the folders above are not asked."""
    needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
    return path.stat().st_mode & needed == needed
