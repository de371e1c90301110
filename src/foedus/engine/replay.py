"""A live run's recorded events, replayed in simulation: the same schedule hears the same, and comes to the same model.

Under schedules that depend on arrival this is how a live run is checked: who answered when, and how stale, is taken
from the record; the clients' work, the sums and the steps are done again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from foedus.data.catalogue import federate
from foedus.domain.errors import DataError
from foedus.domain.facts import NO_FACTS, Facts
from foedus.domain.round import Aggregate, Broadcast, PhaseOrder, PhaseRecord, Receipt, RoundRecord
from foedus.domain.tree import Parts, State, Tensors, model_digest
from foedus.engine.choice import Engine, choose
from foedus.engine.clients import Clients
from foedus.engine.driver import Progress, drive
from foedus.engine.executors import Executor
from foedus.engine.kernels import Outcome, PhaseWork, fold_outcomes
from foedus.engine.prepare import Prepared
from foedus.engine.round import close_phase
from foedus.schedules.schedule import Close, Draw, Event, Reported
from foedus.strategies.strategy import Done, Phase, Strategy, round_of


@dataclass(frozen=True)
class Recorded:
    """One attempt of a phase of a live run: its order, and what its schedule heard, in this order."""

    order: PhaseOrder
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Replayed:
    """What a replay came to."""

    model: Tensors
    rounds: tuple[RoundRecord, ...]

    @property
    def model_digest(self) -> str:
        """The digest of the final model."""
        return model_digest(self.model)


def replay(prepared: Prepared, recording: Sequence[Recorded], engine: Engine) -> Replayed:
    """Do again what a live run did in the rounds that were recorded, with the clients that the run's data make here.

    Raises:
        DataError: ``replay_differs`` where a client fails here whose contribution counted there, or where the recording
            is not of this run.
    """
    if not recording:
        raise _differs("The recording has no round.")
    federation = federate(prepared.spec, prepared.base, prepared.alignment)
    executor, _ = choose(engine, prepared, Clients(prepared, federation), federation.names)
    port = ReplayPort(prepared, recording, executor)
    try:
        state = drive(_asking_all(prepared.strategy), recording[-1].order.round, prepared.spec.seed, port)
    finally:
        executor.close()
    return Replayed(state.tensors["model"], tuple(port.rounds))


def _asking_all(strategy: Strategy) -> Strategy:
    """The strategy, but for whom it asks: the record says that."""

    def everybody(names: Sequence[str], _: torch.Generator, __: Mapping[str, Facts]) -> tuple[str, ...]:
        return tuple(names)

    def phase(state: State) -> Phase | Done:
        found = strategy.phase(state)
        return found if isinstance(found, Done) else replace(found, selector=everybody)

    return replace(strategy, phase=phase)


class ReplayPort:
    """The driver's port on a recording: nothing is waited for, and only the work that counted is done."""

    def __init__(self, prepared: Prepared, recording: Sequence[Recorded], executor: Executor) -> None:
        self.rounds: list[RoundRecord] = []
        self._prepared, self._executor = prepared, executor
        self._left = deque(recording)
        self._needed = _last_use(recording)
        self._models: dict[int, Parts] = {}
        self._states: dict[str, State] = {}
        self._phases: list[PhaseRecord] = []
        self._began = time.monotonic()

    def load(self) -> Progress:
        """The beginning."""
        return Progress(self._prepared.strategy.init(self._prepared.model))

    def population(self) -> Sequence[str]:
        """Whom the next phase asked."""
        return self._next().order.clients

    def facts(self) -> Mapping[str, Facts]:
        """Nobody is chosen here."""
        return NO_FACTS

    def out(self) -> tuple[str, ...]:
        """Whose asks were out when the next phase was opened."""
        return self._next().order.clients

    def open(self, order: PhaseOrder, phase: Phase, state: State) -> None:
        """Begin a phase; the recording has to have it."""
        recorded = self._next()
        self._left.popleft()
        if recorded.order != order:
            raise _differs(f"It has {_named(recorded.order)} where this run comes to {_named(order)}.")
        self._events, self._staleness = deque(recorded.events), dict[str, int]()
        broadcast = Broadcast({part: state.tensors[part] for part in phase.broadcast})
        if phase.schedule.carries:
            self._models[order.round] = broadcast.tensors
        self._work = PhaseWork(order, phase, broadcast, self._states, self._prepared.spec.seed)

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        """They were asked."""

    def draw(self, order: PhaseOrder, draw: Draw) -> None:
        """Who was drawn stands in the record."""

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        """When the alarm rang stands in the record."""

    def next_event(self, order: PhaseOrder) -> Event:
        """What was heard next."""
        if not self._events:
            raise _differs(f"It ends before {_named(order)} was closed.")
        event = self._events.popleft()
        if isinstance(event, Reported):
            self._staleness[event.client] = event.staleness
        return event

    def close(self, order: PhaseOrder, phase: Phase, state: State, verdict: Close) -> State:
        """Do the work of those who counted, each from the model that it had, and take the step."""
        outcomes = self._outcomes(verdict.clients)
        factors = dict(zip(verdict.clients, verdict.factors, strict=True)) if verdict.factors else {}
        counted = replace(order, clients=verdict.clients) if phase.schedule.draws else order
        sums, receipts = phase.aggregator.zero(), list[Receipt]()
        for block in counted.blocks:
            folded = fold_outcomes(phase, [outcomes[name] for name in block if name in outcomes], factors)
            sums = phase.aggregator.merge(sums, folded.sums)
            receipts += folded.receipts
            self._states.update(folded.states)
        combined = tuple(factors[name] for name in sorted(factors))
        aggregate = Aggregate(phase.aggregator.finish(sums), sums.count, combined)
        return self._closed(order, state, aggregate, receipts)

    def untested(self, order: PhaseOrder, phase: Phase, state: State, reason: str) -> State:
        """Nobody's answer counts."""
        return self._closed(order, state, Aggregate({}, 0), ())

    def abandon(self, order: PhaseOrder, reason: str) -> tuple[str, ...]:
        """Nothing of it counts."""
        return ()

    def end_round(self, state: State) -> State:
        """The round's record."""
        number, now = round_of(state), time.monotonic()
        record = RoundRecord(number, tuple(self._phases), model_digest(state.tensors["model"]), now - self._began)
        self.rounds.append(record)
        self._phases, self._began = [], now
        self._models = {made: kept for made, kept in self._models.items() if self._needed.get(made, 0) > number}
        return self._prepared.strategy.end(state, record.metrics)

    def _closed(self, order: PhaseOrder, state: State, aggregate: Aggregate, receipts: Sequence[Receipt]) -> State:
        closed, record = close_phase(self._prepared.strategy, state, order, aggregate, receipts)
        self._phases.append(record)
        return closed

    def _outcomes(self, clients: Sequence[str]) -> Mapping[str, Outcome]:
        """What the work of these came to, those together who began with the same model."""
        return {outcome.client: outcome for outcome in self._worked(clients)}

    def _worked(self, clients: Sequence[str]) -> Iterator[Outcome]:
        now, by_round = self._work.order, dict[int, list[str]]()
        for client in sorted(clients):
            by_round.setdefault(now.round - self._staleness.get(client, 0), []).append(client)
        for number, group in by_round.items():
            order = PhaseOrder(number, now.phase, tuple(group))
            model = self._work.broadcast.tensors if number == now.round else self._models[number]
            work = replace(self._work, order=order, broadcast=Broadcast(model))
            for outcome in self._executor.outcomes(work, order.clients):
                if outcome.contribution is None:
                    raise _differs(f"{outcome.client} counted in {_named(now)}, and fails here: {outcome.failure}.")
                yield outcome

    def _next(self) -> Recorded:
        if not self._left:
            raise _differs("It ends before its last round was done.")
        return self._left[0]


def _last_use(recording: Sequence[Recorded]) -> dict[int, int]:
    """The last round in which a contribution counted that began with the model of a round."""
    last: dict[int, int] = {}
    for phase in recording:
        for event in phase.events:
            if isinstance(event, Reported):
                began = phase.order.round - event.staleness
                last[began] = max(last.get(began, 0), phase.order.round)
    return last


def _named(order: PhaseOrder) -> str:
    return f"the phase {order.phase} of round {order.round} (attempt {order.attempt + 1})"


def _differs(why: str) -> DataError:
    return DataError(
        "replay_differs",
        "The recorded run cannot be replayed here.",
        why,
        "Use the run.toml, the plan and the data of the run, with the same versions.",
    )
