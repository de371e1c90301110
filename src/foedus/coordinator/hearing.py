"""How far a driver has heard a phase: a cursor in its recorded events, and the time until its deadline."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from foedus.coordinator.orders import matches
from foedus.domain.round import PhaseOrder
from foedus.schedules.schedule import Event, Failed, Reported, Tick
from foedus.store.tables import phase_events


@dataclass
class Hearing:
    """A place in a phase's events. ``began`` is when the phase was opened, on this process's monotonic clock.

    A process that takes a phase up asks the wall clock once how long ago it was opened; from then on time is measured.
    """

    order: PhaseOrder
    deadline: float | None
    began: float
    events: deque[Event] = field(default_factory=deque)
    last: int = 0
    ticked: float = -math.inf

    def read(self, tx: Connection, run: str) -> None:
        """Take up what was recorded since."""
        here = (*matches(phase_events, run, self.order), phase_events.c.seq > self.last)
        for row in tx.execute(select(phase_events).where(*here).order_by(phase_events.c.seq)):
            self.last = row.seq
            self.ticked = max(self.ticked, row.at) if row.kind == "tick" else self.ticked
            self.events.append(_event(row.kind, row.client, row.at))

    def left(self) -> float:
        """Seconds until the deadline's tick is due; infinite where there is none or it has come."""
        if self.deadline is None or self.ticked >= self.deadline:
            return math.inf
        return self.deadline - (time.monotonic() - self.began)


def _event(kind: str, client: str, at: float) -> Event:
    if kind == "tick":
        return Tick(at)
    return Reported(client, at) if kind == "reported" else Failed(client, at)
