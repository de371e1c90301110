"""Files of this machine that were fetched from elsewhere, or are on their way there: the least recently used go first.

``room`` is what the files come back to: what was used within :data:`RECENT` seconds or since a block of
:meth:`Cache.keeping` began stays, whatever room it takes, so that a path once given can be opened.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

RECENT = 60.0


class Cache:
    """A folder of files that could all be fetched again. Processes that share ``folder`` take one each below it."""

    def __init__(self, folder: Path, room: int) -> None:
        self._room, self._lock = room, Lock()
        self._folder, lock = _claim(folder)
        weakref.finalize(self, os.close, lock)
        files = sorted((file.stat().st_mtime_ns, file.name, file.stat().st_size) for file in self._folder.iterdir())
        self._turns = itertools.count()
        self._used = {name: (next(self._turns), float("-inf")) for _, name, _ in files}
        self._sizes = {name: size for _, name, size in files}
        self._keepers: set[int] = set()

    def get(self, name: str) -> Path | None:
        """The file, which is used now; None where it is not here."""
        flat = _flat(name)
        with self._lock:
            if flat not in self._used:
                return None
            self._used[flat] = (next(self._turns), time.monotonic())
        return self._folder / flat

    def take(self, name: str, file: Path) -> Path:
        """Take over a file of the same disk; others make room for it."""
        flat, size = _flat(name), file.stat().st_size
        with self._lock:
            target = file.replace(self._folder / flat)
            self._used[flat], self._sizes[flat] = (next(self._turns), time.monotonic()), size
            self._make_room()
        return target

    def drop(self, name: str) -> None:
        """Forget a file."""
        with self._lock:
            self._remove(_flat(name))

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """What is used within the block stays at least until its end."""
        with self._lock:
            turn = next(self._turns)
            self._keepers.add(turn)
        try:
            yield
        finally:
            with self._lock:
                self._keepers.discard(turn)

    def _make_room(self) -> None:
        before, oldest = min(self._keepers, default=float("inf")), time.monotonic() - RECENT
        total = sum(self._sizes.values())
        for name, (turn, at) in sorted(self._used.items(), key=lambda item: item[1][0]):
            if total <= self._room:
                return
            if turn < before and at < oldest:
                total -= self._sizes[name]
                self._remove(name)

    def _remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        self._used.pop(name, None)
        self._sizes.pop(name, None)


def _claim(folder: Path) -> tuple[Path, int]:
    """The first folder below that no other process has, and the lock to hold for as long."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in itertools.count():
        lock = os.open(folder / f"{number}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        mine = folder / str(number)
        mine.mkdir(exist_ok=True)
        return mine, lock
    raise AssertionError("numbers have no end")


def _flat(name: str) -> str:
    return name.replace("/", "_")
