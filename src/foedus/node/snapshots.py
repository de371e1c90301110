"""What a query of the owner's gave: read by the agent, once per run, into a file that the work process sees.

So a plan sees neither the database nor its URL, and a run's rounds all see the same rows. Free of torch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from foedus.data.owned import Reading
from foedus.data.query import snapshot
from foedus.node.vault import Dataset

FOLDER = "snapshots"


def place_of(home: Path, run: str, dataset: Dataset, moved: Callable[[], None]) -> tuple[Path, Reading]:
    """Where a run finds the dataset, and how it is read: the owner's own place, or a query's snapshot.

    Raises:
        ConfigError, DataError: as :func:`foedus.data.query.snapshot`.
    """
    if dataset.kind != "sql":
        return dataset.path, dataset.reading
    # A run's id is the coordinator's word: it becomes no name of a file.
    name = hashlib.sha256(f"{run}\n{dataset.client}\n{dataset.added_at}".encode()).hexdigest()[:32]
    folder = home / FOLDER
    folder.mkdir(exist_ok=True, mode=0o700)
    if not (path := folder / f"{name}.csv").is_file():
        snapshot(dataset.path, path, moved)
    path.chmod(0o644)  # inside the sandbox another user reads it; outside, the folder is closed to others
    return path, dataset.reading.model_copy(update={"kind": "csv"})


def forget(home: Path, before: float) -> None:
    """Remove snapshots of runs that began more than so many seconds ago: a run that asks again reads anew."""
    for path in (home / FOLDER).glob("*.csv"):
        if path.stat().st_mtime < time.time() - before:
            path.unlink()
