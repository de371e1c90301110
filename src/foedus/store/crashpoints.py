"""Places where a process can be killed on demand: every commit, every rename of a file, every reply.

Off unless ``FOEDUS_CRASH`` names one: ``commit:contribute:before:2`` sends SIGKILL to this process when it is about to
commit ``contribute`` for the second time. ``FOEDUS_CRASH_LOG`` names a file to which each place is appended once per
occurrence, which is how a test enumerates them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Literal

Kind = Literal["commit", "rename", "reply"]

_reached: Counter[str] = Counter()
_lock = threading.Lock()


def reach(kind: Kind, name: str, when: Literal["before", "after"]) -> None:
    """Die here if the environment asks for it."""
    wanted, log = os.environ.get("FOEDUS_CRASH"), os.environ.get("FOEDUS_CRASH_LOG")
    if not wanted and not log:
        return
    point = f"{kind}:{name}:{when}"
    with _lock:
        _reached[point] += 1
        occurrence = f"{point}:{_reached[point]}"
        if log:
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(occurrence + "\n")
        if occurrence == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
