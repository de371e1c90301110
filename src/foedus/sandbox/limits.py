"""How much a held process may take. It sets the limits on itself, before foreign code, and cannot raise them again."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Limits:
    """What a held process may have at most.

    ``memory``: bytes, beyond what it has when it begins. ``temporary``: bytes of its private folder, in ``entries``
    files and folders. ``processes``: processes and threads at once. ``files``: open at once. ``cpu``: seconds of all
    its threads together.
    """

    memory: int = 8 << 30
    temporary: int = 1 << 30
    entries: int = 10_000
    processes: int = 128
    files: int = 1024
    cpu: int = 7 * 86400


def apply(limits: Limits) -> None:
    """Bind this process and all that it starts. Memory counts from here, so import first what is large.

    A limit on processes does not bind root, who is never what runs foreign code (:mod:`foedus.sandbox.bubblewrap`).
    """
    taken = _taken()
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_FSIZE, limits.temporary),
        (resource.RLIMIT_CPU, limits.cpu),
        (resource.RLIMIT_DATA, taken + limits.memory),
        (resource.RLIMIT_AS, taken + limits.memory),
        (resource.RLIMIT_MEMLOCK, 1 << 20),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))


def _taken() -> int:
    """The address space of this process, in bytes; more than it has of memory."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
