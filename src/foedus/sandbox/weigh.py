"""How much memory a process has together with all that it has started: limits of the kernel's bind each one alone.

Where one process may have so much, many of them may have many times as much; so who started them looks now and then.
Source: the kernel's filesystems/proc (``task/*/children``, ``statm``, ``smaps_rollup``).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from foedus.sandbox.limits import PAGE

PROC = Path("/proc")


def exceeds(process: int, most: int) -> bool:
    """Whether a process and all that it has started have more than so many bytes of memory; shared ones count once.

    What each has resident is quickly told and too much, for what is shared counts in all; so mostly that is enough.
    """
    family = list(_family(process))
    return sum(map(_resident, family)) > most and sum(map(_own, family)) > most


def _family(process: int) -> Iterable[int]:
    found = [process]
    for each in found:  # it grows meanwhile
        with suppress(OSError):
            for task in (PROC / str(each) / "task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _resident(process: int) -> int:
    with suppress(OSError):
        return int((PROC / str(process) / "statm").read_text().split()[1]) * PAGE
    return 0


def _own(process: int) -> int:
    """Its own pages, and its part of those that it shares; all of those where nobody tells."""
    with suppress(OSError):
        for line in (PROC / str(process) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return _resident(process)
