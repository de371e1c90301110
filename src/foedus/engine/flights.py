"""Asks that are out under a schedule that draws: they may outlive the phase in which they were asked.

Work is really done when its client is due to report, from the model that it was asked with, together with the work of
all who began with that model; what is held until a phase closes is at most what is out and what is in the buffer
(after FLSim's event-driven trainer, Meta 2021, https://github.com/facebookresearch/FLSim). At one instant the order is:
who reports, who fails, each the longer at work before the shorter, then by name; then the alarm, and whom it has asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from heapq import heappop, heappush

from foedus.domain.plain import Json
from foedus.domain.round import FOLD_BLOCK, Aggregate, Broadcast, PhaseOrder, Receipt
from foedus.domain.tree import Parts, State, size_in_bytes
from foedus.engine.cohort import Gathered
from foedus.engine.devices import MICRO, Pace
from foedus.engine.executors import Executor
from foedus.engine.kernels import Outcome, PhaseWork, fold_outcomes
from foedus.engine.round import There, plan_draw
from foedus.schedules.schedule import Asked, Close, Draw, Event, Failed, Reported, Tick, no_answer


@dataclass(frozen=True)
class Flight:
    """One ask: who, in which round (so from the model before it), and from when to when, in microseconds."""

    client: str
    round: int
    began: int
    ends: int
    failure: str = ""

    @property
    def place(self) -> tuple[int, bool, int, str]:
        """Its place in the order of events."""
        return self.ends, bool(self.failure), self.began, self.client


@dataclass(frozen=True)
class Heard:
    """A flight that ended in this phase; ``failure`` where it brought nothing."""

    flight: Flight
    outcome: Outcome | None
    failure: str = ""


class Flights:
    """Everything that is out in a run; :meth:`open` begins a phase. ``now`` is the run's virtual time."""

    def __init__(self, executor: Executor) -> None:
        self.now = 0
        self._executor = executor
        self._out: dict[str, Flight] = {}
        self._order: list[tuple[tuple[int, bool, int, str], Flight]] = []
        self._models: dict[int, Parts] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._last = ""

    @property
    def out(self) -> tuple[str, ...]:
        """Whose asks are out, in the order of names."""
        return tuple(sorted(self._out))

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * MICRO)

    def open(self, work: PhaseWork, population: Sequence[str], pace: Callable[[str], Pace]) -> None:
        """Begin a phase."""
        self._work, self._population, self._pace = work, population, pace
        self._models[work.order.round] = work.broadcast.tensors
        self._opened = self.now
        self._asked: list[str] = []
        self._heard: dict[str, Heard] = {}
        self._events = deque[Event]()
        self._alarm: float | None = None

    def draw(self, order: PhaseOrder, draw: Draw) -> None:
        """Ask so many of the idle: who is neither out nor was asked or heard in this phase."""
        busy = {*self._out, *self._heard, *self._asked}
        there = There(self._population, busy, self._last)
        chosen = plan_draw(self._work.phase, order, draw, there, self._work.seed)
        for client in chosen:
            self._add(self._flight(client, order.round, self._pace(client)))
        self._last = chosen[-1] if chosen else self._last
        self._asked.extend(chosen)
        self._events.append(Asked(chosen, self._since()))

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        """Clients are drawn here."""
        raise AssertionError("a schedule that draws asks nobody by name")

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        """Set the alarm, in seconds since the phase was opened."""
        self._alarm = at

    def next_event(self, order: PhaseOrder) -> Event:
        """Whom was asked, who answered, or the alarm."""
        if self._events:
            return self._events.popleft()
        alarm = None if self._alarm is None else self._opened + round(self._alarm * MICRO)
        if self._order and (alarm is None or self._order[0][1].ends <= alarm):
            return self._land(heappop(self._order)[1])
        assert self._alarm is not None and alarm is not None, "the schedule waits for nothing"
        self.now, at, self._alarm = alarm, self._alarm, None
        return Tick(at)

    def gather(self, verdict: Close | None) -> Gathered:
        """Close over those whom the schedule counts, or over nobody; without carrying, who is out is told to stop."""
        if not self._work.phase.schedule.carries:
            for flight in self._out.values():
                self._heard[flight.client] = Heard(flight, None, "late: The phase was closed before it reported.")
            self._out, self._order = {}, []
        counted = sorted(verdict.clients) if verdict else []
        factors = dict(zip(verdict.clients, verdict.factors, strict=True)) if verdict and verdict.factors else {}
        receipts, states = list[Receipt](), dict[str, State]()
        sums = self._work.phase.aggregator.zero()
        for at in range(0, len(counted), FOLD_BLOCK):
            outcomes = [self._outcome(name) for name in counted[at : at + FOLD_BLOCK]]
            block = fold_outcomes(self._work.phase, outcomes, factors)
            sums = self._work.phase.aggregator.merge(sums, block.sums)
            receipts += [replace(receipt, staleness=self._staleness(receipt.client)) for receipt in block.receipts]
            states.update(block.states)
        receipts += [self._receipt(heard) for name, heard in self._heard.items() if name not in states]
        finished = self._work.phase.aggregator.finish(sums)
        aggregate = Aggregate(finished, sums.count, tuple(factors[name] for name in counted if factors))
        spent = sum(min(heard.flight.ends, self.now) - heard.flight.began for heard in self._heard.values())
        self._forget()
        return Gathered(tuple(sorted(self._asked)), receipts, self.now - self._opened, spent, aggregate, states)

    def export(self) -> State:
        """Between two rounds: the time, what is out, and the models that it began with."""
        models = [(number, part, kept) for number, parts in self._models.items() for part, kept in parts.items()]
        tensors = {f"{number}.{part}": kept for number, part, kept in models}
        flights: list[Json] = [list(astuple(self._out[name])) for name in self.out]
        return State(tensors, {"now": self.now, "last": self._last, "flights": flights})

    def restore(self, state: State) -> None:
        """Go on from what :meth:`export` gave; work that was under way is done again, with the same bits."""
        if not state.data:
            return
        now, last, flights = state.data["now"], state.data["last"], state.data["flights"]
        assert isinstance(now, int) and isinstance(last, str) and isinstance(flights, list)
        self.now, self._last, self._outcomes = now, last, {}
        self._out, self._order, self._models = {}, [], {}
        for row in flights:
            self._add(Flight(*row))  # type: ignore[misc]
        for key, tensors in state.tensors.items():
            number, part = key.split(".", 1)
            self._models[int(number)] = {**self._models.get(int(number), {}), part: tensors}

    def _flight(self, client: str, number: int, pace: Pace) -> Flight:
        patience = self._work.phase.schedule.patience
        if patience is not None and pace.micros > patience * MICRO:
            return Flight(client, number, self.now, self.now + round(patience * MICRO), no_answer(patience))
        return Flight(client, number, self.now, self.now + pace.micros, pace.failure)

    def _add(self, flight: Flight) -> None:
        self._out[flight.client] = flight
        heappush(self._order, (flight.place, flight))

    def _land(self, flight: Flight) -> Event:
        self.now = flight.ends
        outcome = None if flight.failure else self._worked(flight)
        failure = flight.failure or (outcome.failure if outcome else "")
        del self._out[flight.client]
        self._heard[flight.client] = Heard(flight, outcome, failure)
        if failure:
            return Failed(flight.client, self._since())
        return Reported(flight.client, self._since(), self._staleness(flight.client))

    def _worked(self, flight: Flight) -> Outcome:
        """The outcome of a flight; all that began with the same model are worked for together."""
        if flight.client not in self._outcomes:
            same = [other for other in self._out.values() if other.round == flight.round and not other.failure]
            clients = tuple(sorted(other.client for other in same if other.client not in self._outcomes))
            order = PhaseOrder(flight.round, self._work.order.phase, clients)
            work = replace(self._work, order=order, broadcast=Broadcast(self._models[flight.round]))
            for outcome in self._executor.outcomes(work, clients):
                self._outcomes[outcome.client] = outcome
        return self._outcomes.pop(flight.client)

    def _outcome(self, client: str) -> Outcome:
        outcome = self._heard[client].outcome
        assert outcome is not None, f"the schedule counts {client}, which did not report"
        return outcome

    def _staleness(self, client: str) -> int:
        return self._work.order.round - self._heard[client].flight.round

    def _receipt(self, heard: Heard) -> Receipt:
        client, staleness = heard.flight.client, self._staleness(heard.flight.client)
        stale = f"stale: It began with a model {staleness} versions old, and is not counted."
        uncounted = stale if staleness else "late: It reported when its turn was over."
        sent = heard.outcome.contribution if heard.outcome else None
        size = sum(size_in_bytes(part) for part in sent.update.values()) if sent else 0
        return Receipt(client, {}, {}, size=size, failure=heard.failure or uncounted, staleness=staleness)

    def _forget(self) -> None:
        """Let go of models that nothing began with which is out."""
        needed = {flight.round for flight in self._out.values()}
        self._models = {number: parts for number, parts in self._models.items() if number in needed}
        self._outcomes = {name: outcome for name, outcome in self._outcomes.items() if name in self._out}

    def _since(self) -> float:
        return (self.now - self._opened) / MICRO
