"""What a held process does to itself before foreign code runs: the walls that only a process can put around itself."""

from __future__ import annotations

from pathlib import Path

from foedus.sandbox import landlock, seccomp
from foedus.sandbox.bubblewrap import INSIDE, PRIVATE, readable

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def confine() -> bool:
    """Bind this thread, which has to be the only one, to the files that it was meant to see, and filter its calls.

    Returns whether the kernel has rules for files of its own (Landlock).
    """
    landlocked = landlock.restrict([*readable(), INSIDE, Path("/proc")], [PRIVATE, *map(Path, DEVICES)])
    seccomp.install()
    return landlocked
