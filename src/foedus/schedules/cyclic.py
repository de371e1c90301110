"""The cyclic schedule: the model passes from client to client, one client's turn a round.

Chang et al., Distributed deep learning networks among institutions for medical imaging (JAMIA 2018,
https://doi.org/10.1093/jamia/ocy017): cyclical weight transfer. Who fails, or does not answer within the deadline, is
skipped, and the next one has the turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from foedus.domain.timing import CyclicTable
from foedus.schedules.schedule import Abandon, Asked, Close, Command, Draw, Event, Reported, Schedule, Tick, WakeAt
from foedus.schedules.selectors import DRAWERS


@dataclass(frozen=True)
class Turn:
    """Whose turn it is, and how often was drawn."""

    client: str = ""
    draws: int = 1


def cyclic(options: CyclicTable) -> Schedule:
    """Each turn lasts at most ``options.deadline`` seconds."""

    def init(clients: tuple[str, ...]) -> tuple[Turn, tuple[Command, ...]]:
        return Turn(), (Draw(1, 0),)

    def advance(state: Turn, event: Event) -> tuple[Turn, tuple[Command, ...]]:
        if isinstance(event, Asked):
            if not event.clients:
                return state, (Abandon("every client was skipped"),)
            return replace(state, client=event.clients[0]), (WakeAt(event.at + options.deadline),)
        if not isinstance(event, Tick) and event.client != state.client:
            return state, ()
        if isinstance(event, Reported):
            return state, (Close((event.client,)),)
        return Turn(draws=state.draws + 1), (Draw(1, state.draws),)

    return Schedule(init, advance, drawer=DRAWERS[options.selector])
