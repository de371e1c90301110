"""The synchronous schedule: ask the cohort at once, close when enough answered or at the deadline.

Enough is everybody, or ``goal`` contributions where more were asked than are wanted (over-selection). At the deadline
the phase closes if the minimum of contributions is there, and is abandoned otherwise (Bonawitz et al., Towards
Federated Learning at Scale, MLSys 2019, section 2.2, https://arxiv.org/abs/1902.01046).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from foedus.schedules.schedule import Abandon, Ask, Close, Command, Event, Failed, Reported, Schedule, Tick, WakeAt


@dataclass(frozen=True)
class Waiting:
    """Who was asked, who reported and who failed so far."""

    asked: frozenset[str]
    reported: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()


def synchronous(minimum: int | None, deadline: float, goal: int | None = None) -> Schedule:
    """Close over those who reported, at the latest ``deadline`` seconds after the phase was opened.

    ``minimum`` contributions are needed; none given means half of those wanted, rounded up: of ``goal``, or of those
    asked where there is no goal or fewer than that were asked.
    """

    def init(clients: tuple[str, ...]) -> tuple[Waiting, tuple[Command, ...]]:
        return Waiting(frozenset(clients)), (Ask(tuple(sorted(clients))), WakeAt(deadline))

    def advance(state: Waiting, event: Event) -> tuple[Waiting, tuple[Command, ...]]:
        if isinstance(event, Reported) and event.client in state.asked and event.client not in state.failed:
            state = replace(state, reported=state.reported | {event.client})
        elif isinstance(event, Failed) and event.client in state.asked and event.client not in state.reported:
            state = replace(state, failed=state.failed | {event.client})
        wanted = len(state.asked) if goal is None else min(goal, len(state.asked))
        answered = len(state.reported) + len(state.failed)
        due = isinstance(event, Tick) and event.at >= deadline
        if answered < len(state.asked) and len(state.reported) < wanted and not due:
            return state, ()
        needed = minimum if minimum is not None else (wanted + 1) // 2
        if len(state.reported) >= min(needed, wanted) and state.reported:
            return state, (Close(tuple(sorted(state.reported))),)
        return state, (Abandon(f"{len(state.reported)} of {len(state.asked)} contributed; {needed} are needed"),)

    def everyone(asked: int, last: float) -> bool:
        return (goal is None or asked <= goal) and last < deadline

    return Schedule(init, advance, everyone=everyone)
