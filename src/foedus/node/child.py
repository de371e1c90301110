"""The work process of a node: it lives for one run and is the only one here that imports torch and runs a plan.

``python -m foedus.node.child [LIMITS]`` reads orders from standard input and answers on standard output, in frames.
Both are moved away before anything foreign runs: what a plan prints goes to standard error, which the agent caps and
logs. What it made goes out behind the last frame, so that it needs no folder that anybody else reads.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import time
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, BinaryIO

from foedus.domain.errors import FoedusError
from foedus.domain.modules import load
from foedus.node.frames import Order, Ready, Stepped, pack, read
from foedus.node.reasons import failure_of
from foedus.sandbox import limits
from foedus.wire.messages import Message
from foedus.wire.progress import POINTS, Point

if TYPE_CHECKING:
    from foedus.local.checks import Logged
    from foedus.node.session import Session

PULSE = 0.5
"""Seconds between two words that the work goes on."""


def main() -> None:
    """Serve orders until the agent closes the pipe."""
    commands, replies = _own(0, os.O_RDONLY), _own(1, os.O_WRONLY)
    work = load("foedus.node.session")  # with torch
    if len(sys.argv) > 1:
        limits.apply(limits.Limits(**json.loads(sys.argv[1])))
    orders: SimpleQueue[Order] = SimpleQueue()
    Thread(target=_listen, args=(commands, orders), daemon=True).start()
    _send(replies, Ready())
    session: Session | None = None
    while True:
        order = orders.get()
        try:
            if session is None:
                session = work.session_of(order)
            pulse = _Pulse(replies)
            worked = session.work(order, pulse, pulse.log)
            _send(replies, worked.done, worked.update, worked.state, *worked.models)
        except Exception as error:
            _send(replies, failure_of(error))


class _Pulse:
    """Says now and then that the work goes on, and what was logged."""

    def __init__(self, replies: BinaryIO) -> None:
        self._replies, self._steps, self._said = replies, 0, time.monotonic()
        self._logged: list[Point] = []

    def __call__(self) -> None:
        self._steps += 1
        if time.monotonic() - self._said >= PULSE:
            self.say()

    def log(self, logged: Logged) -> None:
        """Have the loss and metrics of a step told; of very many, some."""
        values = {name: value for name, value in logged.metrics.items() if math.isfinite(value)}
        if len(self._logged) == POINTS:
            del self._logged[::2]
        self._logged.append(Point(step=logged.step, steps=logged.steps, values=values))
        if logged.step == logged.steps:
            self.say()

    def say(self) -> None:
        """Say it now."""
        self._said, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        frame = Stepped(
            steps=self._steps,
            logged=tuple(self._logged),
            cpu=used.ru_utime + used.ru_stime,
            memory=used.ru_maxrss * 1024,
        )
        self._logged.clear()
        _send(self._replies, frame)


def _own(descriptor: int, flags: int) -> BinaryIO:
    """Move a standard stream away; in its place comes nothing to read, or standard error to write to."""
    mine = os.fdopen(os.dup(descriptor), "rb" if flags == os.O_RDONLY else "wb")
    if flags == os.O_RDONLY:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)
    else:
        os.dup2(2, descriptor)
    return mine


def _send(replies: BinaryIO, frame: Message, *contents: bytes) -> None:
    for content in (pack(frame), *contents):
        replies.write(content)
    replies.flush()


def _listen(commands: BinaryIO, orders: SimpleQueue[Order]) -> None:
    try:
        while isinstance(frame := read(commands.read), Order):
            orders.put(frame)
    except FoedusError as error:
        print(error, file=sys.stderr)
    _end()


def _end() -> None:
    """The agent is gone or has no more work: end at once, with whatever the plan has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
