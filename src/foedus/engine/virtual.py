"""The driver's port in a simulation: client work is done when it is asked for, and time is virtual."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from foedus.domain.facts import NO_FACTS, Facts
from foedus.domain.round import Broadcast, PhaseOrder, PhaseRecord, RoundRecord
from foedus.domain.tree import State, Tensors, model_digest, size_in_bytes
from foedus.engine.cohort import CohortPhase, Gathered
from foedus.engine.devices import MICRO
from foedus.engine.driver import Ear, Progress
from foedus.engine.executors import Executor
from foedus.engine.flights import Flights
from foedus.engine.kernels import PhaseWork
from foedus.engine.observers import Observer
from foedus.engine.pacing import Pacing
from foedus.engine.prepare import Prepared
from foedus.engine.records import Recent
from foedus.engine.round import close_phase, record_of
from foedus.engine.snapshot import Keeper, Snapshot
from foedus.schedules.named import check_population
from foedus.schedules.schedule import Close, Draw, Event
from foedus.strategies.strategy import Phase, round_of

Central = Callable[[int, Tensors], Mapping[str, float]]
"""``(round, model) →`` loss and metrics on the held-out part, or nothing where that round does not measure them."""


@dataclass(frozen=True)
class _Between:
    """The state between two rounds, what the clock knew, and the clients' states that were replaced since then."""

    state: State
    port: State = field(default_factory=State)
    replaced: dict[str, State | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """Who could be asked, how long each takes, and where the work is done."""

    population: Sequence[str]
    pacing: Pacing
    executor: Executor


class VirtualPort:
    """Holds a simulated run in memory: client work is done when it is due, and time is only counted.

    It begins where the ``keeper`` says that it stood, and lets it know between two rounds where it stands.
    """

    def __init__(
        self,
        prepared: Prepared,
        setting: Setting,
        observers: Sequence[Observer],
        central: Central,
        keeper: Keeper | None = None,
    ) -> None:
        self.records = Recent()
        self._prepared = prepared
        self._setting = setting
        self._observers = observers
        self._central = central
        self._keeper = keeper
        begin = keeper.begin if keeper else None
        self._states: dict[str, State] = dict(begin.clients) if begin else {}
        self._between = _Between(begin.state if begin else prepared.strategy.init(prepared.model))
        self._flights = Flights(setting.executor)
        if begin:
            self._flights.restore(begin.port)
        self._between = replace(self._between, port=self._flights.export())
        self._clock = self._flights.now
        self._there: tuple[int, Sequence[str]] | None = None
        self._phases: list[PhaseRecord] = []
        self._began = time.monotonic()

    def load(self) -> Progress:
        """The beginning, or where the run goes on.

        Raises:
            QuorumError, ConfigError: as :func:`check_population`.
        """
        spec = self._prepared.spec
        check_population(spec.schedule, spec.cohort, len(self._setting.population))
        return Progress(self._between.state)

    @property
    def rounds(self) -> int:
        """How many rounds are done."""
        return round_of(self._between.state) - 1

    def snapshot(self) -> Snapshot:
        """Where the run was when the last round was done."""
        clients = {name: state for name, state in self._states.items() if name not in self._between.replaced}
        before = {name: state for name, state in self._between.replaced.items() if state is not None}
        return Snapshot(self._between.state, clients | before, self._between.port)

    def population(self) -> Sequence[str]:
        """The clients of the partition that are there in this round; the clock waits until there are enough."""
        number = round_of(self._between.state)
        if self._there is None or self._there[0] != number:
            devices, needed = self._setting.pacing.devices, self._prepared.spec.cohort.size or 1
            names, waited = devices.there(self._setting.population, number, needed)
            self._flights.wait(waited)
            self._there = number, names
        return self._there[1]

    def facts(self) -> Mapping[str, Facts]:
        """The speeds of the population's devices, where a selector asks for them."""
        if self._prepared.spec.cohort.selector == "uniform":
            return NO_FACTS
        value = self._setting.pacing.devices.value
        return {client: Facts(speed=value(client, "speed")) for client in self.population()}

    def out(self) -> tuple[str, ...]:
        """Whose asks of earlier rounds are still out."""
        return self._flights.out

    def open(self, order: PhaseOrder, phase: Phase, state: State) -> None:
        """Begin a phase."""
        broadcast = Broadcast({part: state.tensors[part] for part in phase.broadcast})
        self._work = PhaseWork(order, phase, broadcast, self._states, self._prepared.spec.seed)
        pacing = self._setting.pacing
        if phase.schedule.draws:
            self._flights.open(self._work, self.population(), pacing.of(self._work))
        else:
            self._cohort = CohortPhase(self._work, self._setting.executor, pacing.of(self._work), pacing.devices.even)

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        """Have the cohort's work done, and know all its answers."""
        self._cohort.ask()

    def draw(self, order: PhaseOrder, draw: Draw) -> None:
        """Ask some of the idle."""
        self._flights.draw(order, draw)

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        """Set the phase's alarm."""
        self._ear.wake_at(order, at)

    def next_event(self, order: PhaseOrder) -> Event:
        """The next event of the phase in virtual time."""
        return self._ear.next_event(order)

    def close(self, order: PhaseOrder, phase: Phase, state: State, verdict: Close) -> State:
        """Take the step; the clients' new states become current."""
        gathered = self._gather(verdict)
        closed, record = close_phase(self._prepared.strategy, state, order, gathered.aggregate, gathered.receipts)
        for client in gathered.states:
            self._between.replaced.setdefault(client, self._states.get(client))
        self._states.update(gathered.states)
        self._record(record, gathered)
        return closed

    def untested(self, order: PhaseOrder, phase: Phase, state: State, reason: str) -> State:
        """Go on without a test."""
        gathered = self._gather(None)
        closed, record = close_phase(self._prepared.strategy, state, order, gathered.aggregate, gathered.receipts)
        self._record(replace(record, outcome="untested"), gathered)
        return closed

    def abandon(self, order: PhaseOrder, reason: str) -> tuple[str, ...]:
        """Record this attempt, of which nothing counts."""
        gathered = self._gather(None)
        record = replace(record_of(order, gathered.receipts, optional=False), metrics={}, outcome="abandoned")
        self._record(record, gathered)
        if self._keeper:
            self._keeper.abandoned(order, reason, gathered.receipts)
        return tuple(f"{receipt.client}: {receipt.failure}" for receipt in gathered.receipts if receipt.failure)

    def end_round(self, state: State) -> State:
        """Record the round and tell the observers."""
        number, model = round_of(state), state.tensors["model"]
        central = self._central(number, model)
        now = time.monotonic()
        clock, seconds = (self._flights.now / MICRO, (self._flights.now - self._clock) / MICRO)
        digest, phases = model_digest(model), tuple(self._phases)
        record = RoundRecord(number, phases, digest, now - self._began, central, clock, seconds)
        self.records.add(record)
        self._phases, self._began, self._clock = [], now, self._flights.now
        for observer in self._observers:
            observer.round(record)
        self._between = _Between(self._prepared.strategy.end(state, record.metrics), self._flights.export())
        if self._keeper:
            self._keeper.between(number, self.snapshot)
        return self._between.state

    @property
    def _ear(self) -> Ear:
        return self._flights if self._work.phase.schedule.draws else self._cohort.line

    def _gather(self, verdict: Close | None) -> Gathered:
        """What the phase came to. The clock does not wait for a test: the training needs no answer to go on."""
        phase = self._work.phase
        if phase.schedule.draws:
            return self._flights.gather(verdict)
        gathered = self._cohort.gather(verdict)
        if not phase.optional:
            self._flights.now += gathered.micros
        return gathered

    def _record(self, record: PhaseRecord, gathered: Gathered) -> None:
        down = sum(size_in_bytes(part) for part in self._work.broadcast.tensors.values()) * len(gathered.asked)
        record = replace(record, asked=gathered.asked, bytes_down=down, virtual_seconds=gathered.micros / MICRO)
        self._phases.append(replace(record, client_seconds=gathered.client_micros / MICRO))
