"""Control groups (version 2): the kernel's bounds on a held process together with all that it starts.

They can be had where the group of this process is its own to divide: a service of systemd's with ``Delegate=yes``, a
container with a writable ``/sys/fs/cgroup``. A group that has processes may not divide what it has among others, so
this process first goes to one of its own beside them. Source: the kernel's admin-guide/cgroup-v2.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT, SELF = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

OURS = "foedus-agent"
"""The group that this process goes to."""

NEEDED = {"memory", "pids"}

EMPTIES = 2.0
"""Seconds for the last of killed processes to leave a group."""

ENTER = 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"'
"""A shell that goes into a group, and becomes what it was told to start: nothing is started outside."""


@dataclass(frozen=True)
class Group:
    """A group for one held process and what it starts."""

    folder: Path

    def entered(self, command: Sequence[str]) -> list[str]:
        """What to start to have ``command`` run in the group."""
        return ["/bin/sh", "-c", ENTER, "enter", str(self.folder), *command]

    def overfull(self) -> bool:
        """Whether the kernel has killed for want of memory here."""
        with suppress(OSError):
            words = (self.folder / "memory.events").read_text().split()
            return int(dict(zip(words[::2], words[1::2], strict=True)).get("oom_kill", 0)) > 0
        return False

    def end(self) -> None:
        """Kill whatever is left in it, and remove it."""
        with suppress(OSError):
            (self.folder / "cgroup.kill").write_text("1")
        until = time.monotonic() + EMPTIES
        while self.folder.is_dir() and time.monotonic() < until:
            try:
                self.folder.rmdir()
            except OSError:
                time.sleep(EMPTIES / 100)


def group(name: str, memory: int, processes: int) -> Group | None:
    """A group that may have so many bytes of memory, and processes and threads; none where there can be none."""
    return _made(place(), name, memory, processes)


@cache
def place() -> Path | None:
    """Where this process may make groups."""
    return divided(ROOT, SELF)


def divided(root: Path, own: Path) -> Path | None:
    """The group that the table ``own`` tells, if it lets others be made in it; this process is then in :data:`OURS`."""
    with suppress(OSError):
        here = next((line[3:].strip() for line in own.read_text().splitlines() if line.startswith("0::")), None)
        if here is None:
            return None
        folder = root / here.lstrip("/")
        folder = folder.parent if folder.name == OURS else folder
        if set((folder / "cgroup.controllers").read_text().split()) >= NEEDED:
            return _divide(folder)
    return None


def _divide(folder: Path) -> Path | None:
    try:
        (folder / OURS).mkdir(exist_ok=True)
        (folder / OURS / "cgroup.procs").write_text(str(os.getpid()))
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in sorted(NEEDED)))
    except OSError:  # it is somebody else's, or others are in it as well
        with suppress(OSError):
            (folder / "cgroup.procs").write_text(str(os.getpid()))
            (folder / OURS).rmdir()
        return None
    return folder


def _made(base: Path | None, name: str, memory: int, processes: int) -> Group | None:
    if base is None:
        return None
    made = Group(base / f"plan-{name}")
    try:
        made.folder.mkdir()
        for file, value in (("memory.max", memory), ("memory.oom.group", 1), ("pids.max", processes)):
            (made.folder / file).write_text(str(value))
    except OSError:
        made.end()
        return None
    with suppress(OSError):  # a kernel without swap has no such file
        (made.folder / "memory.swap.max").write_text("0")
    return made
