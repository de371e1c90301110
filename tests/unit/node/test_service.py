"""A node that finishes its work before it ends goes on hearing what its owner wishes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from foedus.node.service import _Ending, _until_idle
from foedus.node.wishes import CONTROL, Control, Wish, write


def drained(home: Path, then: Callable[[_Ending, dict[str, int]], None], seconds: float = 600.0) -> Wish:
    """What was wished last by a node that had work in hand when its owner first wished it to drain, then to restart."""

    async def draining() -> Wish:
        held, ending = {"ask": 1}, _Ending(home, threading.Event())
        waiting = asyncio.create_task(_until_idle(held, ending, "drain", seconds))
        write(home / CONTROL, Control(wish="restart"))
        while (home / CONTROL).exists():
            await asyncio.sleep(0.01)
        then(ending, held)
        async with asyncio.timeout(60):
            return await waiting

    return asyncio.run(draining())


@pytest.mark.parametrize(
    "how",
    [
        lambda home, ending: write(home / CONTROL, Control(wish="stop")),
        lambda home, ending: ending._stop.set(),
        lambda home, ending: [ending._term() for _ in range(2)],
    ],
    ids=["wish", "SIGINT", "SIGTERM twice"],
)
def test_a_stop_is_heard_after_other_wishes(tmp_path: Path, how: Callable[[Path, _Ending], None]) -> None:
    assert drained(tmp_path, lambda ending, held: how(tmp_path, ending)) == "stop"


def test_a_restart_comes_when_the_work_is_done(tmp_path: Path) -> None:
    assert drained(tmp_path, lambda ending, held: held.clear()) == "restart"


def test_who_sends_a_signal_waits_only_for_so_long_though_the_owner_waited_before(tmp_path: Path) -> None:
    assert drained(tmp_path, lambda ending, held: ending._term(), seconds=0.1) == "drain"
