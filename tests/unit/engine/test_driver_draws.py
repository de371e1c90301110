"""The driver under schedules that draw, with a port that can be thrown away and reopened at any call.

What such a port has to keep is what a live one would: who is out and since which round, each draw, and every event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from foedus.aggregation.mean import weighted_mean
from foedus.domain.facts import Facts
from foedus.domain.round import Aggregate, PhaseOrder, Receipt, Schema
from foedus.domain.run import CohortTable
from foedus.domain.timing import BufferedTable, CyclicTable, ScheduleTable, TimedTable
from foedus.domain.tree import State
from foedus.engine.driver import Progress, drive
from foedus.local.evaluate import evaluation
from foedus.schedules.named import schedule_of
from foedus.schedules.schedule import Asked, Close, Draw, Event, Failed, Reported, Tick
from foedus.schedules.selectors import Request, round_robin, uniform
from foedus.strategies.stopping import next_round
from foedus.strategies.strategy import Done, Phase, Strategy, round_of
from foedus.transforms.transform import IDENTITY

NAMES = tuple("abcdef")
COHORT = CohortTable(size=3)


def _strategy(table: ScheduleTable) -> Strategy:
    """One training phase a round, whose step is the port's to record."""
    schedule = schedule_of(table, COHORT)
    mean = weighted_mean({}, {})
    phase = Phase("train", evaluation, Schema({}, ("examples",), ()), mean, IDENTITY, uniform(COHORT), schedule)

    def current(state: State) -> Phase | Done:
        return Done() if state.data["phase"] else phase

    def close(state: State, aggregate: Aggregate, receipts: Sequence[Receipt]) -> State:
        return replace(state, data={**state.data, "phase": 1})

    begin = State({}, {"round": 1, "phase": 0})
    return Strategy("draws", lambda model: begin, current, close, lambda state, metrics: next_round(state), sliced=True)


@dataclass
class Disk:
    """What survives a crash of the port. ``out``: since which round each one's ask is out, and when it was made."""

    state: State
    order: PhaseOrder | None = None
    events: list[Event] = field(default_factory=list)
    draws: dict[int, tuple[str, ...]] = field(default_factory=dict)
    out: dict[str, int] = field(default_factory=dict)
    last: str = ""
    closed: list[tuple[int, tuple[str, ...], tuple[float, ...]]] = field(default_factory=list)
    asked: list[tuple[int, int, tuple[str, ...]]] = field(default_factory=list)


class Crash(Exception):
    """The process ends here."""


class DiskPort:
    """Whoever is out answers in the order of names, one a second; ``failing`` clients fail. Crashes by its budget."""

    def __init__(self, disk: Disk, carries: bool, failing: str, budget: int = 10**9) -> None:
        self.disk, self.carries, self.failing, self.budget = disk, carries, failing, budget
        self.at, self.alarm = 0, -1.0

    def _spend(self) -> None:
        self.budget -= 1
        if self.budget < 0:
            raise Crash

    def load(self) -> Progress:
        return Progress(self.disk.state, self.disk.order)

    def facts(self) -> Mapping[str, Facts]:
        raise AssertionError("it draws")

    def population(self) -> Sequence[str]:
        return NAMES

    def out(self) -> tuple[str, ...]:
        return tuple(sorted(self.disk.out))

    def open(self, order: PhaseOrder, phase: Phase, state: State) -> None:
        self._spend()
        self.disk.order, self.disk.events, self.disk.draws, self.at = order, [], {}, 0
        self._spend()

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        raise AssertionError("it draws")

    def draw(self, order: PhaseOrder, draw: Draw) -> None:
        self._spend()
        if draw.number not in self.disk.draws:
            heard = {event.client for event in self.disk.events if isinstance(event, (Reported, Failed))}
            request = Request(draw.count, {*self.disk.out, *heard}, self.disk.last, torch.Generator())
            chosen = round_robin(NAMES, request)
            self.disk.draws[draw.number] = chosen
            self.disk.out |= dict.fromkeys(chosen, order.round)
            self.disk.last = chosen[-1] if chosen else self.disk.last
            self.disk.events.append(Asked(chosen, self._now()))
            self.disk.asked.append((order.round, draw.number, chosen))
        self._spend()

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        self._spend()
        self.alarm = at

    def next_event(self, order: PhaseOrder) -> Event:
        self._spend()
        if self.at == len(self.disk.events):
            self.disk.events.append(self._next(order))
        event = self.disk.events[self.at]
        self.at += 1
        if isinstance(event, Tick):
            self.alarm = -1.0
        self._spend()
        return event

    def _next(self, order: PhaseOrder) -> Event:
        now = self._now()
        if self.alarm >= 0 and (self.alarm <= now or not self.disk.out):
            return Tick(self.alarm)
        client = min(self.disk.out)
        began = self.disk.out.pop(client)
        return Failed(client, now + 1) if client in self.failing else Reported(client, now + 1, order.round - began)

    def _now(self) -> float:
        return self.disk.events[-1].at if self.disk.events else 0.0

    def close(self, order: PhaseOrder, phase: Phase, state: State, verdict: Close) -> State:
        self._spend()
        self.disk.closed.append((order.round, verdict.clients, verdict.factors))
        self.disk.state, self.disk.order = replace(state, data={**state.data, "phase": 1}), None
        if not self.carries:
            self.disk.out = {}
        self._spend()
        return self.disk.state

    def untested(self, order: PhaseOrder, phase: Phase, state: State, reason: str) -> State:
        raise AssertionError("nothing is optional")

    def abandon(self, order: PhaseOrder, reason: str) -> tuple[str, ...]:
        raise AssertionError(reason)

    def end_round(self, state: State) -> State:
        self._spend()
        self.disk.state = next_round(state)
        self._spend()
        return self.disk.state


TABLES: dict[str, ScheduleTable] = {
    "buffered": BufferedTable(name="buffered", buffer=2),
    "timed": TimedTable(name="timed", every=3.0),
    "cyclic": CyclicTable(name="cyclic"),
}


@pytest.mark.parametrize("failing", ["", "bd"])
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_run_that_is_cut_at_any_call_and_reopened_asks_and_closes_as_if_it_was_not(
    table: ScheduleTable, failing: str
) -> None:
    strategy = _strategy(table)
    carries = schedule_of(table, COHORT).carries
    whole = Disk(strategy.init({}))
    drive(strategy, 4, 1, DiskPort(whole, carries, failing))
    assert [number for number, _, _ in whole.closed] == [1, 2, 3, 4]
    assert not any(set(failing) & set(clients) for _, clients, _ in whole.closed)
    for budget in range(1, 60):
        disk, cuts = Disk(strategy.init({})), 0
        while True:
            try:
                drive(strategy, 4, 1, DiskPort(disk, carries, failing, budget + cuts))
                break
            except Crash:
                cuts += 1
        assert disk.closed == whole.closed
        assert disk.asked == whole.asked
        assert round_of(disk.state) == 5


def test_who_is_carried_on_counts_by_its_staleness() -> None:
    strategy = _strategy(TABLES["buffered"])
    disk = Disk(strategy.init({}))
    drive(strategy, 2, 1, DiskPort(disk, True, ""))
    # a, b and c are asked; a and b make the first model, d having been asked in the place of a; then c is stale.
    assert disk.closed == [(1, ("a", "b"), (1.0, 1.0)), (2, ("c", "d"), (2**-0.5, 2**-0.5))]
