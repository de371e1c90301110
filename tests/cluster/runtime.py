"""A machine room in one thread: processes whose clocks, threads and chance are one seed's.

What lies below the code is exchanged, and none of the code: ``time``, ``secrets``, ``threading`` (as foedus uses it)
and worker threads ask the process that they run in. So nothing escapes by forgetting a seam. Threads are greenlets
that give way where they would wait; the event loop leaps to the next instant at which something happens.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import random
import secrets
import selectors
import sys
import threading
import time
import types
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio.to_thread
import greenlet
import pytest

EPOCH = 1_800_000_000.0
"""What every clock shows when a simulation begins, in seconds since the epoch."""

SHORT = 0.002
"""Seconds that a thread takes to wake up, at most."""

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Killed(greenlet.GreenletExit):
    """This process was killed; nothing that it still does can have an effect."""


class Process:
    """A process: alive until it is killed, with a clock that may show another time than the others."""

    def __init__(self, room: Room, name: str) -> None:
        self.room, self.name = room, name
        self.alive, self.skew = True, 0.0
        # In the order in which they were made: sets of objects would have another order in another process.
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.strands: dict[Strand, None] = {}
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)
        room.processes.append(self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have the process do something on the event loop."""
        return self.room.loop.create_task(work, context=self.context.copy())

    def kill(self) -> None:
        """End it where it stands, as SIGKILL does."""
        if not self.alive:
            return
        self.alive = False
        self.room.note(f"{self.name} is killed")
        self.room.loop.call_soon(self._clean)

    def _clean(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        for strand in list(self.strands):
            strand.end()


class Strand:
    """A thread of a process; ``target`` is run in a greenlet."""

    def __init__(self, process: Process, name: str, target: Callable[[], Any]) -> None:
        self.process, self.name = process, name
        self.done: asyncio.Future[Any] = process.room.loop.create_future()
        self.thread: SimThread | None = None
        self._target = target
        self._turns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: SimEvent | None = None
        self._greenlet = greenlet.greenlet(self._run, process.room.main)
        self._greenlet.gr_context = process.context.copy()
        process.strands[self] = None

    def start(self) -> None:
        """Begin when the others give way."""
        self.process.room.loop.call_later(self._latency(), self._resume, self._turns)

    def begin(self) -> None:
        """Run until it waits for something, or ends."""
        self._greenlet.switch()

    def block(self, seconds: float | None, event: SimEvent | None = None) -> None:
        """Give way until ``seconds`` have passed or the event is set."""
        if greenlet.getcurrent() is not self._greenlet:
            raise RuntimeError("a thread blocks where it is not run")
        self._turns += 1
        if seconds is not None:
            self._timer = self.process.room.loop.call_later(max(0.0, seconds), self._resume, self._turns)
        self._waiting = event
        if event is not None:
            event.waiting.add(self)
        self.process.room.main.switch()
        if not self.process.alive:
            raise Killed

    def wake(self) -> None:
        """Go on soon."""
        self.process.room.loop.call_later(self._latency(), self._resume, self._turns)

    def end(self) -> None:
        """Throw :class:`Killed` where it waits."""
        self._turns += 1
        self._greenlet.throw(Killed)
        self._settle(self.done.cancel)

    def _resume(self, turn: int) -> None:
        if turn == self._turns and not self._greenlet.dead and self.process.alive:
            self._turns += 1
            if self._timer is not None:
                self._timer.cancel()
            if self._waiting is not None:
                self._waiting.waiting.discard(self)
            self._greenlet.switch()

    def _run(self) -> None:
        try:
            result = self._target()
        except Killed:
            self._settle(self.done.cancel)
        except BaseException as error:
            failure = error
            self._settle(lambda: self.done.set_exception(failure))
        else:
            self._settle(lambda: self.done.set_result(result))
        finally:
            self.process.strands.pop(self, None)

    def _settle(self, how: Callable[[], object]) -> None:
        if not self.done.done():
            how()

    def _latency(self) -> float:
        chance = random.Random(f"{self.process.room.seed} {self.process.name} {self.name} {self._turns}")
        return chance.random() * SHORT


class SimEvent:
    """``threading.Event`` for strands."""

    def __init__(self) -> None:
        self.waiting: set[Strand] = set()
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for strand in sorted(self.waiting, key=lambda one: one.name):
            strand.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            here().block(timeout, self)
        return self._set


class SimThread:
    """``threading.Thread`` for processes."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        process = PROCESS.get()
        assert process is not None and target is not None
        self.name, self.daemon = name or "thread", daemon
        self._started = False
        self._strand = Strand(process, self.name, lambda: target(*args, **(kwargs or {})))
        self._strand.thread = self
        self._strand.done.add_done_callback(process.room.look_at)

    def start(self) -> None:
        self._started = True
        self._strand.start()

    def is_alive(self) -> bool:
        return self._started and not self._strand.done.done()

    def join(self, timeout: float | None = None) -> None:
        raise RuntimeError("no process of a simulation ends in an orderly way")


def here() -> Strand:
    """The strand that runs now."""
    found = greenlet.getcurrent()
    process = PROCESS.get()
    for strand in process.strands if process is not None else ():
        if strand._greenlet is found:
            return strand
    raise RuntimeError("the event loop would be blocked")


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time leaps. Nothing is waited for but instants: there are no other threads and no sockets."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Leaping(self))

    def time(self) -> float:
        return self._now

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """Simulated processes get no signals but SIGKILL."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        return self.create_task(in_strand(lambda: func(*args)))


class _Leaping(selectors.DefaultSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise RuntimeError("everybody waits, and for nobody")
            if timeout > 0:
                self._loop._now += timeout
        return found


async def in_strand(work: Callable[[], Any]) -> Any:
    """Do blocking work beside the event loop, in a strand of its own."""
    process = PROCESS.get()
    assert process is not None
    process.room.calls += 1
    strand = Strand(process, f"call {process.room.calls}", work)
    strand.begin()
    return await strand.done


class Room:
    """All processes of one simulation, and what has happened. ``chance`` is the seed's; nothing else is random."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(f"room {seed}")
        self.loop = Loop()
        self.main = greenlet.getcurrent()
        self.calls = 0
        self.trace: list[str] = []
        self.failures: list[BaseException] = []
        self.processes: list[Process] = []

    def note(self, text: str) -> None:
        """Write down what happens, for who has to understand a failure."""
        self.trace.append(f"{self.loop.time():10.3f} {text}")

    def look_at(self, done: asyncio.Future[Any]) -> None:
        """Remember what a thread died of."""
        if not done.cancelled() and (error := done.exception()) is not None and not isinstance(error, Killed):
            self.failures.append(error)

    def digest(self) -> str:
        """Of all that has happened: the same for the same seed."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have a simulation happen."""
        with self._below():
            try:
                return self.loop.run_until_complete(work)
            finally:
                self._end()

    def _end(self) -> None:
        for process in self.processes:
            process.kill()
        self.loop.run_until_complete(asyncio.sleep(SHORT))
        self.loop.close()

    @contextmanager
    def _below(self) -> Iterator[None]:
        """Exchange what lies below the code."""
        self.loop.set_task_factory(_task)
        names = random.Random(f"names {self.seed}")
        state = random.getstate()
        random.seed(f"jitter {self.seed}")
        with pytest.MonkeyPatch.context() as patch:
            for name, simulated in _clocks(self.loop).items():
                patch.setattr(time, name, simulated)
            for module in [each for name, each in sys.modules.items() if name.startswith("foedus.")]:
                if getattr(module, "threading", None) is threading:
                    patch.setattr(module, "threading", _threading())
            patch.setattr(anyio.to_thread, "run_sync", _run_sync)
            patch.setattr(secrets, "token_bytes", lambda n=32: names.randbytes(n))
            patch.setattr(secrets, "token_hex", lambda n=32: names.randbytes(n).hex())
            patch.setattr(secrets, "token_urlsafe", lambda n=32: names.randbytes(n).hex()[: n * 4 // 3])
            try:
                yield
            finally:
                random.setstate(state)


def _task(loop: asyncio.AbstractEventLoop, work: Any, context: Any = None) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, context=context)
    process = (context or contextvars.copy_context()).get(PROCESS)
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(lambda done: process.tasks.pop(done, None))
    return task


async def _run_sync(func: Callable[..., Any], *args: Any, **_: Any) -> Any:
    return await in_strand(lambda: func(*args))


def _clocks(loop: Loop) -> dict[str, Callable[..., Any]]:
    """``time``'s functions: virtual inside a process, real elsewhere."""
    real = {name: getattr(time, name) for name in ("time", "monotonic", "perf_counter", "sleep")}

    def wall() -> float:
        process = PROCESS.get()
        return EPOCH + loop.time() + process.skew if process else float(real["time"]())

    def steady() -> float:
        return loop.time() if PROCESS.get() else float(real["monotonic"]())

    def sleep(seconds: float) -> None:
        if PROCESS.get():
            here().block(seconds)
        else:
            real["sleep"](seconds)

    return {"time": wall, "monotonic": steady, "perf_counter": steady, "sleep": sleep}


def _threading() -> types.ModuleType:
    """``threading`` as a simulated process sees it."""
    seen = types.ModuleType("threading")
    simulated = {"Event": SimEvent, "Thread": SimThread}
    made = {
        name: lambda *args, _name=name, **kwargs: (  # bound now: one function for each name
            simulated[_name] if PROCESS.get() else getattr(threading, _name)
        )(*args, **kwargs)
        for name in simulated
    }

    def current_thread() -> Any:
        in_strand = PROCESS.get() is not None and greenlet.getcurrent() is not PROCESS.get().room.main
        return here().thread if in_strand else threading.current_thread()

    vars(seen).update({**vars(threading), **made, "current_thread": current_thread})
    return seen
