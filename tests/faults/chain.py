"""``python -m tests.faults.chain DEATHS PLACE… -- COMMAND…``: a foedus command, killed at one place after another.

Everything is imported once. Each attempt is a fork: a process of its own, ended by a real SIGKILL, for a tenth of what
it costs to start one. It is begun again until it has died at every place, in this order, and then goes on undisturbed.
DEATHS gets a line for each.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from foedus.cli.main import execute

HEAVY = ("coordinator_start", "coordinator_gc", "coordinator_restore", "node_service")

child, ending = 0, False


def _pass_on(number: int, frame: FrameType | None) -> None:
    global ending
    ending = True
    if child:
        os.kill(child, number)


def _attempt(place: str, command: list[str]) -> int:
    """Run the command in a process of its own, which dies at ``place``; its exit code."""
    global child
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ["FOEDUS_CRASH"] = place
        os._exit(execute(command))
    _, status = os.waitpid(child, 0)
    child = 0
    return os.waitstatus_to_exitcode(status)


def main(deaths: Path, places: list[str], command: list[str]) -> int:
    """Die at each place, then go on; the exit code of the attempt that was not killed."""
    for heavy in HEAVY:
        importlib.import_module(f"foedus.cli.{heavy}")
    importlib.import_module("foedus.coordinator.app")
    signal.signal(signal.SIGTERM, _pass_on)
    for place in (*places, ""):
        code = _attempt(place, command)
        if code != -signal.SIGKILL or ending:
            return code
        with deaths.open("a") as file:
            file.write(place + "\n")
    return code


if __name__ == "__main__":
    cut = sys.argv.index("--")
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:cut], sys.argv[cut + 1 :]))
