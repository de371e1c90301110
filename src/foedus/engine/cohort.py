"""A phase of a simulation whose cohort is known: who will be counted is foreseen, and only their work is done.

How long each ask takes is known before its work is done, and the schedule is pure. So it is asked beforehand whom it
would count, and those clients' work goes to the executor in whole fold blocks, with holes where others stand. Where the
plan fails for one of them the schedule is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foedus.domain.round import Aggregate, Receipt
from foedus.domain.tree import State
from foedus.engine.devices import MICRO, Pace
from foedus.engine.driver import collect
from foedus.engine.executors import Executor
from foedus.engine.kernels import PhaseWork
from foedus.engine.timeline import Timeline
from foedus.schedules.schedule import Close


@dataclass(frozen=True)
class Gathered:
    """What a phase came to: the aggregate, who was asked, receipts of all that was heard, and clients' new states.

    ``micros`` of virtual time passed, and so many ``client_micros`` of work with it.
    """

    asked: tuple[str, ...]
    receipts: Sequence[Receipt]
    micros: int
    client_micros: int
    aggregate: Aggregate
    states: Mapping[str, State]


class CohortPhase:
    """Asks ``work.order.clients``, all at once. ``even``: each of them takes as long as the first, and none fails."""

    def __init__(self, work: PhaseWork, executor: Executor, pace: Callable[[str], Pace], even: bool) -> None:
        self._work, self._executor = work, executor
        clients = work.order.clients
        self._paces = dict.fromkeys(clients, pace(clients[0])) if even else {name: pace(name) for name in clients}
        self._failures = {name: pace.failure for name, pace in self._paces.items() if pace.failure}
        self.line = Timeline(())

    def ask(self) -> None:
        """Have the work done of those whom the schedule will count, and know every answer."""
        last = max(pace.micros for pace in self._paces.values()) / MICRO
        if self._work.phase.schedule.everyone(len(self._paces), last):
            self._run([name for name in self._paces if name not in self._failures])
        else:
            ran = None
            while (wanted := self._foreseen()) != ran:
                self._run(wanted)
                ran = [name for name in wanted if name not in self._failures]
        self.line = self._timeline()

    def gather(self, verdict: Close | None) -> Gathered:
        """Close over those whom the schedule counts, or over nobody."""
        counted = frozenset(verdict.clients) if verdict else frozenset()
        assert counted <= self._receipts.keys() - self._failures.keys(), "the schedule counts whom it did not foresee"
        now = self.line.now
        spent = sum(min(pace.micros, now) for pace in self._paces.values())
        receipts = [self._receipt(name) for name in self._paces]
        aggregator = self._work.phase.aggregator
        aggregate = Aggregate(aggregator.finish(self._sums), self._sums.count) if verdict else Aggregate({}, 0)
        return Gathered(self._work.order.clients, receipts, now, spent, aggregate, self._states)

    def _run(self, clients: Sequence[str]) -> None:
        """Run and fold the blocks, with holes where nobody is wanted."""
        phase, wanted = self._work.phase, frozenset(clients)
        self._sums = phase.aggregator.zero()
        self._receipts: dict[str, Receipt] = {}
        self._states: dict[str, State] = {}
        blocks = [tuple(name for name in block if name in wanted) for block in self._work.order.blocks]
        for result in self._executor.run(self._work, [block for block in blocks if block]):
            self._sums = phase.aggregator.merge(self._sums, result.sums)
            self._states.update(result.states)
            for receipt in result.receipts:
                self._receipts[receipt.client] = receipt
                if receipt.failure:
                    self._failures[receipt.client] = receipt.failure

    def _foreseen(self) -> list[str]:
        """Those who report before the phase ends, as far as is known who fails."""
        line = self._timeline()
        collect(self._work.phase, self._work.order, line)
        return sorted(line.reported)

    def _timeline(self) -> Timeline:
        return Timeline((pace.micros, name, self._failures.get(name, "")) for name, pace in self._paces.items())

    def _receipt(self, name: str) -> Receipt:
        failure = self._failures.get(name)
        if failure is None and name not in self._receipts:
            failure = "late: The phase was closed before it reported."
        return self._receipts[name] if failure is None else Receipt(name, {}, {}, failure=failure)
