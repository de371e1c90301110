"""The one driver: it feeds events to a phase's schedule and does what the schedule's commands say.

The simulator's virtual clock and the coordinator's database are two ports of it. Nothing else sends an ask or closes a
phase. The driver holds no fact of its own: a port that was reopened after a crash gives back the order that was open
and the events that were recorded, and the schedule, being pure, comes to the same place.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from foedus.domain.errors import QuorumError
from foedus.domain.facts import Facts
from foedus.domain.round import PhaseOrder
from foedus.domain.tree import State
from foedus.engine.round import plan_phase
from foedus.schedules.schedule import Abandon, Ask, Close, Command, Draw, Event, WakeAt
from foedus.strategies.stopping import stopped
from foedus.strategies.strategy import Done, Phase, Strategy, round_of

ATTEMPTS = 3
"""How often a phase is tried before the run fails."""

SAID, TOLD = 3, 400
"""How many of the clients' reasons the run's own failure repeats, and how many letters of each."""


@dataclass(frozen=True)
class Progress:
    """Where a run is: its state, the order of the phase that is open, if one is, and else which attempt is next."""

    state: State
    order: PhaseOrder | None = None
    attempt: int = 0


class Ear(Protocol):
    """What a schedule's commands are said to, and its events come from."""

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        """Ask these clients, unless they were asked already."""

    def draw(self, order: PhaseOrder, draw: Draw) -> None:
        """Choose among the idle and ask them, unless this draw was made already; :class:`Asked` tells of it."""

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        """Have a Tick ``at`` seconds after the phase was opened, and no other."""

    def next_event(self, order: PhaseOrder) -> Event:
        """The next event of the phase, from its beginning; waits for it."""


class Port(Ear, Protocol):
    """Where a run lives. Every method is durable when it returns, and may be called again after a crash."""

    def load(self) -> Progress:
        """Where the run is."""

    def population(self) -> Sequence[str]:
        """The sorted names of the clients that may be asked now; waits until there are enough."""

    def facts(self) -> Mapping[str, Facts]:
        """What is known of the clients of the population."""

    def out(self) -> tuple[str, ...]:
        """Whose asks of earlier phases are still out, in the order of names."""

    def open(self, order: PhaseOrder, phase: Phase, state: State) -> None:
        """Store the order of a phase; from now on :meth:`load` gives it back until it is closed or abandoned."""

    def close(self, order: PhaseOrder, phase: Phase, state: State, verdict: Close) -> State:
        """Fold the contributions that count, call ``close_phase``, and store state and record as one."""

    def untested(self, order: PhaseOrder, phase: Phase, state: State, reason: str) -> State:
        """Close an optional phase to which too few answered."""

    def abandon(self, order: PhaseOrder, reason: str) -> tuple[str, ...]:
        """Give up this attempt of a phase; nothing of it counts. Returns what the clients that failed said."""

    def end_round(self, state: State) -> State:
        """Store the round's record; returns the state at the beginning of the next round."""


def drive(strategy: Strategy, rounds: int, seed: int, port: Port) -> State:
    """Run the rounds that are left, or fewer where the strategy stops early; returns the final state.

    Raises:
        QuorumError: ``too_few_contributions`` after a phase was abandoned three times in a row (a run that is taken up
            again has three new attempts).
    """
    progress = port.load()
    state, order, attempt = progress.state, progress.order, progress.attempt
    first = order.attempt if order else attempt
    while round_of(state) <= rounds and not stopped(state):
        phase = strategy.phase(state)
        if isinstance(phase, Done):
            state = port.end_round(state)
            continue
        if order is None:
            order = _order(phase, state, seed, attempt, port)
            port.open(order, phase, state)
        verdict = collect(phase, order, port)
        if isinstance(verdict, Close):
            state, attempt, first = port.close(order, phase, state, verdict), 0, 0
        elif phase.optional:
            state, attempt, first = port.untested(order, phase, state, verdict.reason), 0, 0
        else:
            said = port.abandon(order, verdict.reason)
            attempt = order.attempt + 1
            if attempt - first >= ATTEMPTS:
                raise _too_few(order, attempt - first, verdict.reason, said)
        order = None
    return state


def _too_few(order: PhaseOrder, times: int, reason: str, said: tuple[str, ...]) -> QuorumError:
    told = _reasons(said)
    alike = f"All {len(said)} failed alike: see to the plan and its options; `foedus simulate --debug` shows where."
    mend = alike if len(told) == 1 and len(said) > 1 else "Mend what the clients said, or lower `cohort.minimum`."
    return QuorumError(
        "too_few_contributions",
        f"The phase {order.phase} of round {order.round} was abandoned {times} times.",
        f"The last time, {reason}." + (f" {'; '.join(told)}" if told else ""),
        mend if said else "See to the clients that are away.",
    )


def _reasons(said: tuple[str, ...]) -> list[str]:
    """Each reason once, with the first client of whom it was said and how many more there are.

    >>> _reasons(("c0: boom", "c1: boom", "c2: bang"))
    ['c0 and 1 more: boom', 'c2: bang']
    """
    alike: dict[str, list[str]] = {}
    for text in said:
        client, _, reason = text.partition(": ")
        alike.setdefault(re.sub(rf"\b{re.escape(client)}\b", "it", reason), []).append(client)
    told = []
    for reason, (first, *others) in itertools.islice(alike.items(), SAID):
        who = f"{first} and {len(others)} more" if others else first
        told.append(f"{who}: {reason[:TOLD]}{'…' if len(reason) > TOLD else ''}")
    return told + ([f"and {len(alike) - SAID} other reasons"] if len(alike) > SAID else [])


def _order(phase: Phase, state: State, seed: int, attempt: int, port: Port) -> PhaseOrder:
    """A cohort that is planned, or whose asks are out where the schedule draws as it goes."""
    if phase.schedule.draws:
        return PhaseOrder(round_of(state), phase.name, port.out(), attempt)
    return plan_phase(phase, state, port.population(), seed, attempt, port.facts())


def collect(phase: Phase, order: PhaseOrder, port: Ear) -> Close | Abandon:
    """Feed the schedule until it closes the phase or gives it up."""
    schedule_state, commands = phase.schedule.init(order.clients)
    while True:
        for command in commands:
            if isinstance(command, (Close, Abandon)):
                return command
            _perform(command, order, port)
        schedule_state, commands = phase.schedule.advance(schedule_state, port.next_event(order))


def _perform(command: Command, order: PhaseOrder, port: Ear) -> None:
    if isinstance(command, Ask):
        port.ask(order, command.clients)
    elif isinstance(command, Draw):
        port.draw(order, command)
    elif isinstance(command, WakeAt):
        port.wake_at(order, command.at)
