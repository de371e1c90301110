"""Live progress of a run, as an observer: a table that grows on a terminal, one plain line per round elsewhere.

All of it goes to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from foedus.cli.output import plain, say, size
from foedus.domain.round import RoundRecord
from foedus.domain.tree import Tensors
from foedus.engine.observers import Observer

ROWS = 20
"""Rounds that the table on a terminal shows, the last ones."""

METRICS = 4


@contextmanager
def progress(rounds: int) -> Iterator[Observer]:
    """Somebody to tell of a run with so many rounds."""
    if not sys.stderr.isatty():
        yield PlainProgress(rounds)
        return
    observer = LiveProgress(rounds)
    with Live(get_renderable=observer.table, console=Console(stderr=True), auto_refresh=False) as live:
        observer.live = live
        yield observer


class Clock:
    """How long a run still takes, by the mean of its rounds so far."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self._seconds: list[float] = []

    def left(self, seconds: float) -> str:
        """The time left after another round, which took so many ``seconds``, in words.

        >>> Clock(10).left(2.0)
        '18 s'
        """
        self._seconds.append(seconds)
        done = len(self._seconds)
        left = sum(self._seconds) / done * (self.rounds - done)
        return f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"


class PlainProgress:
    """One line per round."""

    def __init__(self, rounds: int) -> None:
        self._clock = Clock(rounds)

    def round(self, record: RoundRecord) -> None:
        """Say what the round came to."""
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in _metrics(record).items())
        down, up = _bytes(record)
        rounds, left = self._clock.rounds, self._clock.left(record.seconds)
        say(f"round {record.round}/{rounds}  clients {_clients(record)}  {metrics}  down {down}  up {up}  left {left}")

    def finished(self, model: Tensors) -> None:
        """Nothing more to say."""


class LiveProgress:
    """A table with a row per round."""

    live: Live

    def __init__(self, rounds: int) -> None:
        self._clock = Clock(rounds)
        self._records: list[RoundRecord] = []
        self._left = ""

    def round(self, record: RoundRecord) -> None:
        """Add the round's row."""
        self._left = self._clock.left(record.seconds)
        self._records = [*self._records[1 - ROWS :], record]
        self.live.refresh()

    def finished(self, model: Tensors) -> None:
        """The last table stays on the screen."""

    def table(self) -> Table:
        """The table as it is now."""
        table = Table(box=None, header_style="bold", pad_edge=False)
        if not self._records:
            table.add_column(f"round 0/{self._clock.rounds}: waiting for the first …")
            return table
        last = self._records[-1]
        names = list(_metrics(last))
        for header in ("round", "clients", *names, "down", "up"):
            table.add_column(Text(plain(header)), justify="right")
        for record in self._records:
            metrics = _metrics(record)
            values = [f"{metrics[name]:.4f}" if name in metrics else "" for name in names]
            table.add_row(f"{record.round}/{self._clock.rounds}", _clients(record), *values, *_bytes(record))
        table.caption = f"time left {self._left}" if last.round < self._clock.rounds else None
        return table


def _metrics(record: RoundRecord) -> dict[str, float]:
    return dict(list(record.metrics.items())[:METRICS])


def _clients(record: RoundRecord) -> str:
    receipts = record.phases[0].receipts if record.phases else ()
    counted = sum(not receipt.failure for receipt in receipts)
    asked = len(record.phases[0].asked) if record.phases else 0
    return f"{counted}/{asked}"


def _bytes(record: RoundRecord) -> tuple[str, str]:
    return size(sum(phase.bytes_down for phase in record.phases)), size(sum(phase.bytes_up for phase in record.phases))
