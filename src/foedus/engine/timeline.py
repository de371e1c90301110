"""A phase's events in virtual time, when all of them are known: what a driver would hear, in the order of instants."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from foedus.domain.round import PhaseOrder
from foedus.engine.devices import MICRO
from foedus.schedules.schedule import Draw, Event, Failed, Reported, Tick


class Timeline:
    """Tells a cohort's answers, each ``(microseconds, client, failure)``; at one instant who reports before who fails.

    The alarm rings when all else of its instant was told, and again and again when nothing is left to tell.
    """

    def __init__(self, answers: Iterable[tuple[int, str, str]]) -> None:
        ordered = sorted(answers, key=lambda answer: (answer[0], bool(answer[2]), answer[1]))
        self._events = deque((at, client, bool(failure)) for at, client, failure in ordered)
        self._alarm: float | None = None
        self.now = 0
        self.reported: list[str] = []

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        """Their answers are known."""

    def draw(self, order: PhaseOrder, draw: Draw) -> None:
        """A cohort is asked, and not drawn."""
        raise AssertionError("a schedule that draws has no timeline")

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        """Set the alarm, in seconds."""
        self._alarm = at

    def next_event(self, order: PhaseOrder) -> Event:
        """What comes next."""
        alarm = None if self._alarm is None else round(self._alarm * MICRO)
        if self._events and (alarm is None or self._events[0][0] <= alarm):
            self.now, client, failed = self._events.popleft()
            if failed:
                return Failed(client, self.now / MICRO)
            self.reported.append(client)
            return Reported(client, self.now / MICRO)
        assert self._alarm is not None and alarm is not None, "the schedule waits for nothing"
        self.now = alarm
        return Tick(self._alarm)
