"""What this process may use of its machine."""

from __future__ import annotations

import os
import sys


def cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
