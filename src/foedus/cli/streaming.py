"""How the work of a live run goes, while it is watched: a line now and then, and all of it to TensorBoard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from foedus.cli.output import say
from foedus.cli.run_history import described
from foedus.client import progress
from foedus.client.http import Connection
from foedus.domain.errors import FoedusError
from foedus.engine.trackers import Tracking
from foedus.wire.progress import EVERY, ProgressView

SAID_EVERY = 15.0
"""Seconds between two lines; rounds that are shorter speak for themselves."""

JOIN = 10.0


@contextmanager
def streaming(connection: Connection, run: str, trackers: Tracking) -> Iterator[None]:
    """Have what nodes say of their work told, in a thread, as long as the block lasts; what came last is told too."""
    ended = threading.Event()
    thread = threading.Thread(target=_stream, args=(connection, run, trackers, ended), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(JOIN)


def _stream(connection: Connection, run: str, trackers: Tracking, ended: threading.Event) -> None:
    after, hear = 0, _teller(trackers)
    while True:
        last = ended.wait(2 * EVERY)
        try:
            for report in progress.read(connection, run, after):
                after = report.id
                hear(report, last)
        except (FoedusError, RuntimeError):
            pass  # whoever follows the run says what is wrong with the connection, or has closed it
        if last:
            return


def _teller(trackers: Tracking) -> Callable[[ProgressView, bool], None]:
    said = time.monotonic()
    done: dict[tuple[str, str], tuple[int, int, int]] = {}

    def hear(report: ProgressView, last: bool) -> None:
        nonlocal said
        who = (report.client, report.phase)
        round_number, before, steps = done.get(who, (report.round, 0, 0))
        if report.round != round_number:
            before, steps = before + steps, 0
        for point in report.points:
            trackers.step("/".join(who), before + point.step, point.values)
            steps = max(steps, point.step)
        if report.points:
            used = {"cpu_seconds": report.cpu, "memory_bytes": float(report.memory)}
            trackers.step("/".join(who), before + steps, used)
        done[who] = (report.round, before, steps)
        if report.points and not last and time.monotonic() - said >= SAID_EVERY:
            said = time.monotonic()
            say(list(described(report))[len(report.points) - 1])

    return hear
