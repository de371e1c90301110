"""How busy this machine is."""

from __future__ import annotations

import os


def stretched(seconds: float) -> float:
    """How long this machine, as busy as it has been for a minute, may take for so many seconds of an idle one."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
