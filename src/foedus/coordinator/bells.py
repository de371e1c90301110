"""Who is told that something was committed: drivers in threads, long polls and event streams on the event loop.

A bell carries no fact; who hears it looks into the database. So a bell that is lost with the process loses nothing.
A transaction names the bells that its commit rings with :func:`foedus.store.unit_of_work.notice`; they ring in this
process, and in every other one that shares the database.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

Found = TypeVar("Found")
Listener = Callable[[], object]

LOOKS = 8
"""Worker threads of all who wait for a bell and look."""

_LOOKS: RunVar[CapacityLimiter] = RunVar("foedus_looks")

RUNS = "runs"
"""A run was submitted or is to go on."""

CLIENTS = "clients"
"""A node said something of itself: datasets, approvals, that it is there."""


def of_run(run: str) -> str:
    """The bell of one run: contributions, moves, events."""
    return f"run {run}"


def of_node(node: str) -> str:
    """The bell of one node: there may be work."""
    return f"node {node}"


class Bells:
    """Bells by name. To ring is cheap, from any thread, and never blocks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may close the bells while this thread holds it
        self._listeners: dict[str, dict[Listener, None]] = defaultdict(dict)  # in order, for tests
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the process is about to end."""
        return self._closed

    def ring(self, *names: str) -> None:
        """Tell all who listen to one of these."""
        with self._lock:
            listeners = [listener for name in names for listener in self._listeners.get(name, ())]
        for listener in listeners:
            listener()

    def ring_all(self) -> None:
        """Tell everybody: something may have been missed."""
        with self._lock:
            names = tuple(self._listeners)
        self.ring(*names)

    def close(self) -> None:
        """Tell everybody that the end has come."""
        self._closed = True
        self.ring_all()

    @contextmanager
    def listening(self, name: str, listener: Listener) -> Iterator[None]:
        """Have ``listener()`` called at each ring, in the thread that rings."""
        with self._lock:
            self._listeners[name][listener] = None
        try:
            yield
        finally:
            with self._lock:
                self._listeners[name].pop(listener, None)
                if not self._listeners[name]:
                    del self._listeners[name]


def _looking() -> CapacityLimiter:
    """Threads of its own for looks: a ring that wakes thousands must not keep those waiting who bring something."""
    try:
        return _LOOKS.get()
    except LookupError:
        limiter = CapacityLimiter(LOOKS)
        _LOOKS.set(limiter)
        return limiter


async def _stays() -> bool:
    return False


async def wait_for(
    bells: Bells,
    name: str,
    look: Callable[[], Found | None],
    seconds: float,
    gone: Callable[[], Awaitable[bool]] = _stays,
) -> Found | None:
    """What ``look()`` finds, in a worker thread, now or after a ring; None when ``seconds`` have passed.

    Who is ``gone`` is not looked for: what is found for a broken connection would be lost.
    """
    loop, rung, until = asyncio.get_running_loop(), asyncio.Event(), time.monotonic() + seconds
    with bells.listening(name, lambda: loop.call_soon_threadsafe(rung.set)):
        while True:
            rung.clear()
            if await gone():
                return None
            found = await to_thread.run_sync(look, limiter=_looking())
            left = until - time.monotonic()
            if found is not None or left <= 0 or bells.closed:
                return found
            try:
                await asyncio.wait_for(rung.wait(), left)
            except TimeoutError:
                return None
