"""The driver, with a port in memory that can be thrown away and reopened at any call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from foedus.aggregation.aggregator import Sums
from foedus.aggregation.mean import merge, weighted_mean
from foedus.domain.errors import QuorumError
from foedus.domain.facts import Facts
from foedus.domain.round import Aggregate, PhaseOrder, PhaseRecord, Receipt, Schema
from foedus.domain.run import CohortTable
from foedus.domain.tree import State, Tensors
from foedus.engine.driver import Progress, drive
from foedus.engine.round import close_phase
from foedus.local.evaluate import evaluation
from foedus.schedules.schedule import Close, Draw, Event, Failed, Reported, Tick
from foedus.schedules.selectors import uniform
from foedus.schedules.synchronous import synchronous
from foedus.strategies.stopping import next_round
from foedus.strategies.strategy import Done, Phase, Strategy, round_of
from foedus.transforms.transform import IDENTITY


def _strategy(minimum: int | None = None) -> Strategy:
    """Adds the number of contributions to one number; a training and a test phase per round."""
    aggregator = weighted_mean({"p": "examples"}, {"p": {"w": torch.float64}})
    schema = Schema({}, ("examples",), ())
    parts = (evaluation, schema, aggregator, IDENTITY, uniform(CohortTable(size=3)), synchronous(minimum, 5.0))
    phases = (Phase("train", *parts), Phase("test", *parts, optional=True))

    def phase(state: State) -> Phase | Done:
        at = int(str(state.data["phase"]))
        return phases[at] if at < len(phases) else Done()

    def close(state: State, aggregate: Aggregate, receipts: Sequence[Receipt]) -> State:
        at = int(str(state.data["phase"]))
        model = state.tensors["model"]["w"] + (aggregate.count if at == 0 else 0)
        return State({"model": {"w": model}}, {**state.data, "phase": at + 1})

    def init(model: Tensors) -> State:
        return State({"model": model}, {"round": 1, "phase": 0})

    return Strategy("count", init, phase, close, lambda state, metrics: next_round(state), sliced=True)


@dataclass
class Disk:
    """What survives a crash of the port."""

    state: State
    order: PhaseOrder | None = None
    events: list[Event] = field(default_factory=list)
    records: list[PhaseRecord] = field(default_factory=list)
    rounds: list[list[PhaseRecord]] = field(default_factory=list)
    asked: list[tuple[PhaseOrder, tuple[str, ...]]] = field(default_factory=list)


class Crash(Exception):
    """The process ends here."""


class MemoryPort:
    """Answers by a rule; raises ``Crash`` when its budget of calls is used up, before or after the effect."""

    def __init__(self, disk: Disk, failing: Any = (), budget: int = 10**9) -> None:
        self.disk, self.failing, self.budget = disk, failing, budget
        self.at = 0

    def _spend(self) -> None:
        self.budget -= 1
        if self.budget < 0:
            raise Crash

    def load(self) -> Progress:
        return Progress(self.disk.state, self.disk.order)

    def facts(self) -> Mapping[str, Facts]:
        return {}

    def population(self) -> tuple[str, ...]:
        return ("c", "a", "b", "d")

    def open(self, order: PhaseOrder, phase: Phase, state: State) -> None:
        self._spend()
        self.disk.order, self.disk.events, self.at = order, [], 0
        self._spend()

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        self._spend()
        if (order, clients) not in self.disk.asked:
            self.disk.asked.append((order, clients))

    def draw(self, order: PhaseOrder, draw: Draw) -> None:
        raise AssertionError("the schedule does not draw")

    def out(self) -> tuple[str, ...]:
        return ()

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        self._spend()

    def next_event(self, order: PhaseOrder) -> Event:
        self._spend()
        if self.at == len(self.disk.events):
            left = [
                c for c in order.clients if c not in {e.client for e in self.disk.events if not isinstance(e, Tick)}
            ]
            if not left:
                return Tick(5.0)
            failed = {(order.phase, left[0]), (order.phase, left[0], order.attempt)} & set(self.failing)
            self.disk.events.append(Failed(left[0], 1.0) if failed else Reported(left[0], 1.0))
        self.at += 1
        self._spend()
        return self.disk.events[self.at - 1]

    def close(self, order: PhaseOrder, phase: Phase, state: State, verdict: Close) -> State:
        self._spend()
        clients = verdict.clients
        sums = Sums()
        for _ in clients:
            one = phase.aggregator.add(Sums(), {"p": {"w": torch.ones(1)}}, {"examples": 1.0})
            sums = merge(sums, one)
        receipts = [Receipt(client, {"examples": 1.0}, {}) for client in clients]
        new, record = close_phase(
            _strategy(), state, order, Aggregate(phase.aggregator.finish(sums), sums.count), receipts
        )
        self._store(new, record)
        self._spend()
        return new

    def untested(self, order: PhaseOrder, phase: Phase, state: State, reason: str) -> State:
        new, record = close_phase(_strategy(), state, order, Aggregate({}, 0), [])
        self._store(new, record)
        return new

    def abandon(self, order: PhaseOrder, reason: str) -> tuple[str, ...]:
        self.disk.order = None
        return tuple(f"{client}: it broke" for client in order.clients)

    def end_round(self, state: State) -> State:
        self._spend()
        self.disk.state = next_round(state)
        self.disk.rounds.append(self.disk.records)
        self.disk.records = []
        self._spend()
        return self.disk.state

    def _store(self, state: State, record: PhaseRecord) -> None:
        self.disk.state, self.disk.order = state, None
        self.disk.records = [*self.disk.records, record]


def _disk() -> Disk:
    return Disk(_strategy().init({"w": torch.zeros((), dtype=torch.float64)}))


def test_rounds_are_driven_to_the_end() -> None:
    disk = _disk()
    state = drive(_strategy(), 4, 1, MemoryPort(disk))
    assert round_of(state) == 5
    assert state.tensors["model"]["w"].item() == 12
    assert [[record.phase for record in phases] for phases in disk.rounds] == [["train", "test"]] * 4
    assert all(len(record.asked) == 3 for phases in disk.rounds for record in phases)


def test_a_run_that_is_cut_at_any_call_and_reopened_comes_to_the_same_end() -> None:
    whole = _disk()
    drive(_strategy(), 3, 1, MemoryPort(whole))
    for budget in range(1, 60):
        disk, cuts = _disk(), 0
        while True:
            try:
                drive(_strategy(), 3, 1, MemoryPort(disk, budget=budget + cuts))
                break
            except Crash:
                cuts += 1
        assert disk.state == replace(whole.state, tensors=disk.state.tensors)
        assert torch.equal(disk.state.tensors["model"]["w"], whole.state.tensors["model"]["w"])
        assert disk.rounds == whole.rounds
        assert disk.asked == whole.asked


def test_h10_where_nobody_contributes_the_model_stays_and_after_three_times_the_run_fails_and_says_so() -> None:
    disk = _disk()
    failing = {("train", client) for client in "abcd"}
    with pytest.raises(QuorumError) as refusal:
        drive(_strategy(), 2, 1, MemoryPort(disk, failing))
    assert refusal.value.code == "too_few_contributions"
    assert "0 of 3 contributed" in str(refusal.value)
    assert refusal.value.why.endswith(" a and 2 more: it broke")
    assert [order.attempt for order, _ in disk.asked] == [0, 1, 2]
    assert disk.state.tensors["model"]["w"].item() == 0


def test_another_attempt_asks_another_cohort_and_can_succeed() -> None:
    disk = _disk()
    first = MemoryPort(_disk())
    drive(_strategy(), 1, 1, first)
    unlucky = first.disk.asked[0][1]
    failing = {("train", unlucky[0], 0)}
    drive(_strategy(minimum=3), 1, 1, MemoryPort(disk, failing))
    attempts = [order.attempt for order, _ in disk.asked if order.phase == "train"]
    assert attempts == [0, 1]
    assert disk.state.tensors["model"]["w"].item() == 3


def test_a_failed_test_phase_marks_the_record_untested_and_undoes_nothing() -> None:
    disk = _disk()
    failing = {("test", client) for client in "abcd"}
    state = drive(_strategy(), 2, 1, MemoryPort(disk, failing))
    assert state.tensors["model"]["w"].item() == 6
    assert [record.outcome for phases in disk.rounds for record in phases] == ["closed", "untested"] * 2
