"""The driver's port in a simulation: client work is done when it is asked for, and time is virtual."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from foedus.aggregation.aggregator import Sums
from foedus.domain.round import Aggregate, Broadcast, PhaseOrder, PhaseRecord, Receipt, RoundRecord
from foedus.domain.tree import State, Tensors, model_digest, size_in_bytes
from foedus.engine.driver import Progress
from foedus.engine.executors import Executor
from foedus.engine.kernels import PhaseWork
from foedus.engine.observers import Observer
from foedus.engine.prepare import Prepared
from foedus.engine.round import close_phase
from foedus.schedules.schedule import Event, Failed, Reported, Tick
from foedus.strategies.strategy import Phase, round_of

Central = Callable[[int, Tensors], Mapping[str, float]]
"""``(round, model) →`` loss and metrics on the held-out part, or nothing where that round does not measure them."""


class VirtualPort:
    """Holds a simulated run in memory. Every client answers at virtual time 0, in the order of names."""

    def __init__(
        self,
        prepared: Prepared,
        population: Sequence[str],
        executor: Executor,
        observers: Sequence[Observer],
        central: Central,
    ) -> None:
        self.records: list[RoundRecord] = []
        self._prepared = prepared
        self._population = population
        self._executor = executor
        self._observers = observers
        self._central = central
        self._states: dict[str, State] = {}
        self._phases: list[PhaseRecord] = []
        self._began = time.monotonic()

    def load(self) -> Progress:
        """The beginning."""
        return Progress(self._prepared.strategy.init(self._prepared.model))

    def population(self) -> Sequence[str]:
        """Every client of the partition."""
        return self._population

    def open(self, order: PhaseOrder, phase: Phase, state: State) -> None:
        """Begin a phase."""
        broadcast = Broadcast({part: state.tensors[part] for part in phase.broadcast})
        self._work = PhaseWork(order, phase, broadcast, self._states, self._prepared.spec.seed)
        self._events = deque[Event]()
        self._sums: Sums = phase.aggregator.zero()
        self._receipts: list[Receipt] = []
        self._new_states: dict[str, State] = {}
        self._deadline = 0.0

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        """Have the clients' work done, fold block by block, and queue their answers."""
        for result in self._executor.run(self._work, order.blocks):
            self._sums = self._work.phase.aggregator.merge(self._sums, result.sums)
            self._receipts.extend(result.receipts)
            self._new_states.update(result.states)
        for receipt in self._receipts:
            self._events.append(Failed(receipt.client, 0.0) if receipt.failure else Reported(receipt.client, 0.0))

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        """Remember the deadline; it comes when nothing else does."""
        self._deadline = at

    def next_event(self, order: PhaseOrder) -> Event:
        """The next answer, or the deadline."""
        return self._events.popleft() if self._events else Tick(self._deadline)

    def close(self, order: PhaseOrder, phase: Phase, state: State, clients: tuple[str, ...]) -> State:
        """Take the step; the clients' new states become current."""
        aggregate = Aggregate(phase.aggregator.finish(self._sums), self._sums.count)
        closed, record = close_phase(self._prepared.strategy, state, order, aggregate, self._receipts)
        self._states.update(self._new_states)
        self._record(record)
        return closed

    def untested(self, order: PhaseOrder, phase: Phase, state: State, reason: str) -> State:
        """Go on without a test."""
        closed, record = close_phase(self._prepared.strategy, state, order, Aggregate({}, 0), self._receipts)
        self._record(replace(record, outcome="untested"))
        return closed

    def abandon(self, order: PhaseOrder, reason: str) -> tuple[str, ...]:
        """Forget this attempt."""
        return tuple(f"{receipt.client}: {receipt.failure}" for receipt in self._receipts if receipt.failure)

    def end_round(self, state: State) -> State:
        """Record the round and tell the observers."""
        number, model = round_of(state), state.tensors["model"]
        central = self._central(number, model)
        now = time.monotonic()
        record = RoundRecord(number, tuple(self._phases), model_digest(model), now - self._began, central)
        self.records.append(record)
        self._phases, self._began = [], now
        for observer in self._observers:
            observer.round(record)
        return self._prepared.strategy.end(state, record.metrics)

    def _record(self, record: PhaseRecord) -> None:
        down = sum(size_in_bytes(part) for part in self._work.broadcast.tensors.values()) * len(record.asked)
        self._phases.append(replace(record, bytes_down=down))
