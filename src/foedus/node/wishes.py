"""What the owner wishes of a running node, and what it says of itself: files in its home. Free of torch.

There is no port: only who may write to the home can wish. The process looks for a wish, and takes it away.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from foedus.domain.errors import ConflictError, UnreachableError
from foedus.node.vault import Vault
from foedus.wire.messages import Count, Finite, Line, Message

LOCK, CONTROL, STATUS = "agent.lock", "control.json", "status.json"
LOOK = 0.25
"""Seconds between two looks at whether a wish has come true."""

Wish = Literal["drain", "stop", "restart"]
State = Literal["running", "draining", "stopped"]


class Control(Message):
    """What the owner wishes; ``restart`` drains, and begins anew with the code that is installed then."""

    wish: Wish


class Working(Message):
    """An assignment in hand; ``since`` is in Unix seconds, none while it waits its turn."""

    run: Line
    round: Count
    phase: Line
    client: Line
    since: Finite | None = None


class Status(Message):
    """What the process said of itself last. Times are in Unix seconds; ``contact``: the coordinator's last answer."""

    pid: Count
    version: Line
    state: State
    since: Finite
    contact: Finite | None = None
    sandbox: Line = ""
    working: Annotated[tuple[Working, ...], Field(max_length=1000)] = ()


def wish(home: Path, what: Wish) -> None:
    """Have the running node drain, stop or restart; :func:`wait` tells when it has.

    Raises:
        NotFoundError: ``node_missing``. ConflictError: ``node_not_running``.
    """
    Vault(home).close()
    if not runs(home):
        fix = "Start it: `foedus node start`."
        raise ConflictError("node_not_running", f"The node in {home} does not run.", "", fix)
    write(home / CONTROL, Control(wish=what))


def wait(home: Path, what: Wish, before: Status | None, seconds: float) -> None:
    """Wait until a wish has come true; ``before`` is what the process said before.

    Raises:
        UnreachableError: ``node_busy`` where it has not within ``seconds``.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what != "restart" and not runs(home):
            return
        now = status(home)
        if what == "restart" and now and now.state == "running" and (before is None or now.since > before.since):
            return
        time.sleep(LOOK)
    raise UnreachableError(
        "node_busy",
        f"The node has not ended within {seconds:g} s.",
        "It finishes its work first." if what != "stop" else "",
        "Wait for longer, or `foedus node stop`: what it works on is asked again.",
    )


def runs(home: Path) -> bool:
    """Whether a process is the node in ``home`` just now."""
    if not (home / LOCK).is_file():
        return False
    with (home / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def status(home: Path) -> Status | None:
    """What the process said of itself last; none where none ever has."""
    try:
        return Status.model_validate_json((home / STATUS).read_bytes())
    except (OSError, ValidationError):
        return None


def write(path: Path, message: Message) -> None:
    """A small file for this machine's owner alone, there whole or not at all; it need not outlive the machine."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(message.model_dump_json())
    part.replace(path)
