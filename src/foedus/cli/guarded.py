"""``python -m foedus.cli.guarded …``: foedus, for a process that must not outlive the one that started it.

Standard input is a pipe from the parent. When it ends, for whatever reason the parent has gone, this process is told to
stop; after three seconds its whole process group is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from foedus.cli.main import main

GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL."""


def watch_parent() -> None:
    """Wait for the end of standard input, then end this process and those that it started."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=watch_parent, daemon=True).start()
    main()
