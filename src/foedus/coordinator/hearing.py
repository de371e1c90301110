"""How far a driver has heard a phase: a cursor in its recorded events, its alarm, and how long each ask has been out.

Time is this process's monotonic clock. A process that takes a phase up asks the wall clock once how long ago it was
opened, and never less than what was told of it; from then on time is measured, and a clock that is set moves nothing.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import Connection, Row, bindparam, select

from foedus.coordinator.orders import PLACE, key_of
from foedus.domain.round import PhaseOrder
from foedus.schedules.schedule import Asked, Event, Failed, Reported, Tick
from foedus.store.tables import phase_events

_NEXT = (
    select(phase_events)
    .where(*(phase_events.c[name] == bindparam(name) for name in PLACE), phase_events.c.seq > bindparam("after"))
    .order_by(phase_events.c.seq)
)


@dataclass
class Hearing:
    """A place in a phase's events. ``began`` is when the phase was opened, on the monotonic clock.

    ``patience``: seconds for which an ask may be out. ``alarm``: when a tick is due, in seconds since then. ``read_to``
    and ``told`` count events: what was read, and what the schedule was told.
    """

    order: PhaseOrder
    began: float
    patience: float = math.inf
    alarm: float | None = None
    told: int = 0
    _read_to: int = 0
    _events: deque[tuple[int, Event]] = field(default_factory=deque)
    _asks: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, order: PhaseOrder, opened_at: float, patience: float | None) -> Self:
        """A phase from its first event on; ``opened_at`` is by the wall clock."""
        began = time.monotonic() - max(0.0, time.time() - opened_at)
        return cls(order, began, math.inf if patience is None else patience)

    def read(self, tx: Connection, run: str) -> bool:
        """Take up what was recorded since; whether there is anything to tell."""
        for row in tx.execute(_NEXT, {**key_of(run, self.order), "after": self._read_to}):
            self._read_to = row.seq
            if row.kind in ("tick", "asked"):
                self.began = min(self.began, time.monotonic() - row.at)
            self._events.append((row.seq, _event(row, self.now())))
        return self.heard

    @property
    def heard(self) -> bool:
        """Whether there is an event that was not told yet."""
        return bool(self._events)

    def tell(self) -> Event:
        """The next event; an alarm that has rung is set no more."""
        self.told, event = self._events.popleft()
        if isinstance(event, Tick):
            self.alarm = None
        return event

    def now(self) -> float:
        """Seconds since the phase was opened."""
        return time.monotonic() - self.began

    def left(self) -> float:
        """Seconds until the alarm's tick is due; infinite where none is set."""
        return math.inf if self.alarm is None else self.alarm - self.now()

    def overdue(self, asked_at: Mapping[str, float]) -> tuple[list[str], float]:
        """Which of these asks have been out for longer than there is patience, and when the next one will be."""
        now, wall, patience = time.monotonic(), time.time(), self.patience
        known = {ask: self._asks.get(ask, now - max(0.0, wall - at)) for ask, at in asked_at.items()}
        self._asks = known
        late = [ask for ask, began in known.items() if now - began >= patience]
        left = [patience - (now - began) for ask, began in known.items() if now - began < patience]
        return late, min(left, default=math.inf)


def _event(row: Row[tuple[object, ...]], now: float) -> Event:
    match row.kind:
        case "tick":
            return Tick(row.at)
        case "asked":
            return Asked(tuple(row.clients), row.at)
        case "reported":
            return Reported(row.client, min(row.at, now), row.staleness)
        case _:
            return Failed(row.client, min(row.at, now))
