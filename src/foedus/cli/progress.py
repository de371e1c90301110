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

from foedus.cli.output import plain, say
from foedus.domain.round import RoundRecord
from foedus.domain.text import size
from foedus.domain.tree import Tensors
from foedus.engine.history import RoundRow, row_of
from foedus.engine.observers import Observer
from foedus.engine.progress import Clock, round_line, shown_metrics

ROWS = 20
"""Rounds that the table on a terminal shows, the last ones."""


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


class PlainProgress:
    """One line per round."""

    def __init__(self, rounds: int) -> None:
        self._clock = Clock(rounds)

    def round(self, record: RoundRecord) -> None:
        """Say what the round came to."""
        say(round_line(record, self._clock))

    def finished(self, model: Tensors) -> None:
        """Nothing more to say."""


class LiveProgress:
    """A table with a row per round."""

    live: Live

    def __init__(self, rounds: int) -> None:
        self._clock = Clock(rounds)
        self._rows: list[RoundRow] = []
        self._left = ""

    def round(self, record: RoundRecord) -> None:
        """Add the round's row."""
        self._left = self._clock.left(record.round, record.seconds)
        self._rows = [*self._rows[1 - ROWS :], row_of(record)]
        self.live.refresh()

    def finished(self, model: Tensors) -> None:
        """The last table stays on the screen."""

    def table(self) -> Table:
        """The table as it is now."""
        table = Table(box=None, header_style="bold", pad_edge=False)
        if not self._rows:
            table.add_column(f"round 0/{self._clock.rounds}: waiting for the first …")
            return table
        last = self._rows[-1]
        names = list(shown_metrics(last.metrics))
        for header in ("round", "clients", *names, "down", "up"):
            table.add_column(Text(plain(header)), justify="right")
        for row in self._rows:
            values = [f"{row.metrics[name]:.4f}" if name in row.metrics else "" for name in names]
            clients = f"{row.contributed}/{row.asked}"
            traffic = (size(row.bytes_down), size(row.bytes_up))
            table.add_row(f"{row.round}/{self._clock.rounds}", clients, *values, *traffic)
        table.caption = f"time left {self._left}" if last.round < self._clock.rounds else None
        return table
