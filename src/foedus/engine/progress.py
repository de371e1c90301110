"""How far a run is, in words: a line per round, and the time that is left."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from foedus.domain.round import RoundRecord
from foedus.domain.text import duration, size
from foedus.engine.history import row_of
from foedus.engine.metrics import ranked

METRICS = 4
"""Metrics that a line shows; the one to be improved comes first."""

WINDOW = 50
"""Rounds whose mean says how long the next ones take."""


class Clock:
    """How long a run still takes, by the mean of its last rounds; the first is left out, for it pays the start too."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self._last = deque[float](maxlen=WINDOW)
        self._first = True

    def left(self, number: int, seconds: float) -> str:
        """The time left after round ``number``, which took so many ``seconds``, in words.

        >>> clock = Clock(10)
        >>> clock.left(1, 20.0), clock.left(2, 1.0), clock.left(3, 2.0)
        ('3 min', '8 s', '10 s')
        """
        if not self._first:
            self._last.append(seconds)
        self._first = False
        mean = sum(self._last) / len(self._last) if self._last else seconds
        return duration(mean * max(self.rounds - number, 0))


def shown_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The few of a round's metrics that progress shows."""
    return {name: metrics[name] for name in ranked(metrics)[:METRICS]}


def round_line(record: RoundRecord, clock: Clock) -> str:
    """A round in one line."""
    row = row_of(record)
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in shown_metrics(row.metrics).items())
    traffic = f"down {size(row.bytes_down)}  up {size(row.bytes_up)}"
    virtual = f"clock {row.virtual_time:.1f} s  " if row.virtual_time else ""
    left = f"{virtual}left {clock.left(record.round, record.seconds)}"
    return f"round {record.round}/{clock.rounds}  clients {row.contributed}/{row.asked}  {metrics}  {traffic}  {left}"
