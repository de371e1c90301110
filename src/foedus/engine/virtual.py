"""The driver's port in a simulation: client work is done when it is asked for, and time is virtual."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from foedus.aggregation.aggregator import Sums
from foedus.domain.round import Aggregate, Broadcast, PhaseOrder, PhaseRecord, Receipt, RoundRecord
from foedus.domain.tree import State, Tensors, model_digest, size_in_bytes
from foedus.engine.driver import Progress
from foedus.engine.executors import Executor
from foedus.engine.kernels import PhaseWork
from foedus.engine.observers import Observer
from foedus.engine.prepare import Prepared
from foedus.engine.records import Recent
from foedus.engine.round import close_phase, record_of
from foedus.engine.snapshot import Keeper, Snapshot
from foedus.schedules.schedule import Event, Failed, Reported, Tick
from foedus.strategies.strategy import Phase, round_of

Central = Callable[[int, Tensors], Mapping[str, float]]
"""``(round, model) →`` loss and metrics on the held-out part, or nothing where that round does not measure them."""


@dataclass(frozen=True)
class _Between:
    """The state between two rounds, and the clients' states that were replaced since then."""

    state: State
    replaced: dict[str, State | None] = field(default_factory=dict)


class VirtualPort:
    """Holds a simulated run in memory. Every client answers at virtual time 0, in the order of names.

    It begins where the ``keeper`` says that it stood, and lets it know between two rounds where it stands.
    """

    def __init__(
        self,
        prepared: Prepared,
        population: Sequence[str],
        executor: Executor,
        observers: Sequence[Observer],
        central: Central,
        keeper: Keeper | None = None,
    ) -> None:
        self.records = Recent()
        self._prepared = prepared
        self._population = population
        self._executor = executor
        self._observers = observers
        self._central = central
        self._keeper = keeper
        begin = keeper.begin if keeper else None
        self._states: dict[str, State] = dict(begin.clients) if begin else {}
        self._between = _Between(begin.state if begin else prepared.strategy.init(prepared.model))
        self._phases: list[PhaseRecord] = []
        self._began = time.monotonic()

    def load(self) -> Progress:
        """The beginning, or where the run goes on."""
        return Progress(self._between.state)

    @property
    def rounds(self) -> int:
        """How many rounds are done."""
        return round_of(self._between.state) - 1

    def snapshot(self) -> Snapshot:
        """Where the run was when the last round was done."""
        clients = {name: state for name, state in self._states.items() if name not in self._between.replaced}
        before = {name: state for name, state in self._between.replaced.items() if state is not None}
        return Snapshot(self._between.state, clients | before)

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
        for client in self._new_states:
            self._between.replaced.setdefault(client, self._states.get(client))
        self._states.update(self._new_states)
        self._record(record)
        return closed

    def untested(self, order: PhaseOrder, phase: Phase, state: State, reason: str) -> State:
        """Go on without a test."""
        closed, record = close_phase(self._prepared.strategy, state, order, Aggregate({}, 0), self._receipts)
        self._record(replace(record, outcome="untested"))
        return closed

    def abandon(self, order: PhaseOrder, reason: str) -> tuple[str, ...]:
        """Record this attempt, of which nothing counts."""
        self._record(replace(record_of(order, self._receipts, optional=False), metrics={}, outcome="abandoned"))
        if self._keeper:
            self._keeper.abandoned(order, reason, self._receipts)
        return tuple(f"{receipt.client}: {receipt.failure}" for receipt in self._receipts if receipt.failure)

    def end_round(self, state: State) -> State:
        """Record the round and tell the observers."""
        number, model = round_of(state), state.tensors["model"]
        central = self._central(number, model)
        now = time.monotonic()
        record = RoundRecord(number, tuple(self._phases), model_digest(model), now - self._began, central)
        self.records.add(record)
        self._phases, self._began = [], now
        for observer in self._observers:
            observer.round(record)
        self._between = _Between(self._prepared.strategy.end(state, record.metrics))
        if self._keeper:
            self._keeper.between(number, self.snapshot)
        return self._between.state

    def _record(self, record: PhaseRecord) -> None:
        down = sum(size_in_bytes(part) for part in self._work.broadcast.tensors.values()) * len(record.asked)
        self._phases.append(replace(record, bytes_down=down))
