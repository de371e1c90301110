"""The states of a node's clients, each a file by the SHA-256 of its bytes; they never leave the node.

A candidate is written before its contribution is sent. It is current once an assignment names it, which means that the
coordinator has counted that contribution; the one before it stays, and what is older goes. Free of torch.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

from foedus.node.files import move_durably, sha256_of


class States:
    """Client states below ``folder``, one folder per run and client."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def current(self, run: str, client: str, digest: str) -> Path | None:
        """The file of the state that is current, if it is here and whole; of older ones the newest stays."""
        path = self._place(run, client) / digest
        if not path.is_file() or sha256_of(path) != digest:
            return None
        written = {other: other.stat().st_mtime_ns for other in path.parent.iterdir()}
        older = sorted((other for other in written if written[other] < written[path]), key=written.__getitem__)
        for other in older[:-1]:
            other.unlink(missing_ok=True)
        return path

    def keep(self, run: str, client: str, file: Path) -> str:
        """Move a candidate in, durably; returns its digest."""
        digest = sha256_of(file)
        place = self._place(run, client)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        move_durably(file, place / digest, "state")
        return digest

    def forget(self, older_than: float) -> None:
        """Remove the states of runs that have not asked for so many seconds."""
        before = time.time() - older_than
        for place in self._folder.iterdir():
            if place.is_dir() and all(file.stat().st_mtime < before for file in [place, *place.iterdir()]):
                shutil.rmtree(place, ignore_errors=True)

    def _place(self, run: str, client: str) -> Path:
        # A hash in place of the names: what the coordinator calls a run becomes no path.
        return self._folder / hashlib.sha256(f"{run}\0{client}".encode()).hexdigest()[:40]
