"""Buffered asynchrony (FedBuff): close when the buffer is full, while so many clients work at any time.

Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation (AISTATS 2022,
https://arxiv.org/abs/2106.06639), Algorithm 1. A buffer of one is FedAsync (Xie et al. 2019) in the form of
differences. Asks that are out when the buffer is full go on; their updates count later, by their staleness.

Slots that become free at one instant are filled together when all of that instant was heard, so with the new model if
the buffer is full by then. With a buffer as large as the cohort and clients that take equal time this is the
synchronous schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from foedus.domain.timing import BufferedTable, StalenessTable
from foedus.schedules.schedule import (
    Abandon,
    Asked,
    Close,
    Command,
    Draw,
    Event,
    Failed,
    Reported,
    Schedule,
    Tick,
    WakeAt,
)
from foedus.schedules.selectors import DRAWERS
from foedus.schedules.staleness import factor


@dataclass(frozen=True)
class Flow:
    """Who is out, what was reported and counts (client, factor), how often was drawn, and the alarm that is set."""

    out: frozenset[str]
    counted: tuple[tuple[str, float], ...] = ()
    draws: int = 0
    alarm: float = 0.0


Answer = tuple[Flow, tuple[Command, ...]]


def buffered(options: BufferedTable, concurrency: int) -> Schedule:
    """Close over ``options.buffer`` contributions; ``concurrency`` clients work at any time."""

    def advance(state: Flow, event: Event) -> Answer:
        state = heard(state, event, options.staleness)
        if len(state.counted) == options.buffer:
            return state, (close(state),)
        if isinstance(event, Asked):
            return state, () if state.out else (give_up(state),)
        if isinstance(event, Tick):
            return draw(replace(state, alarm=-1.0), concurrency)
        return woken(state, event.at)

    return Schedule(begin, advance, DRAWERS[options.selector], carries=True, patience=options.deadline)


def begin(out: tuple[str, ...]) -> Answer:
    """Fill the slots when all of the first instant was heard."""
    return Flow(frozenset(out)), (WakeAt(0.0),)


def heard(state: Flow, event: Event, options: StalenessTable) -> Flow:
    """The state with an event taken up."""
    if isinstance(event, Asked):
        return replace(state, out=state.out | set(event.clients))
    if not isinstance(event, (Reported, Failed)) or event.client not in state.out:
        return state
    state = replace(state, out=state.out - {event.client})
    kept = factor(options, event.staleness) if isinstance(event, Reported) else None
    return state if kept is None else replace(state, counted=(*state.counted, (event.client, kept)))


def woken(state: Flow, at: float) -> Answer:
    """Set the alarm to this instant, unless it is."""
    return (state, ()) if state.alarm == at else (replace(state, alarm=at), (WakeAt(at),))


def draw(state: Flow, concurrency: int) -> Answer:
    """Have the free slots filled."""
    free = concurrency - len(state.out)
    return (replace(state, draws=state.draws + 1), (Draw(free, state.draws),)) if free > 0 else (state, ())


def close(state: Flow) -> Close:
    """Close over all that counts, in the order of names."""
    ordered = sorted(state.counted)
    return Close(tuple(client for client, _ in ordered), tuple(kept for _, kept in ordered))


def give_up(state: Flow) -> Close | Abandon:
    """Nobody works and nobody is idle: close over what there is."""
    return close(state) if state.counted else Abandon("nobody is idle, and nobody who was asked contributed")
