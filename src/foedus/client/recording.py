"""What a live run's schedules heard, fetched for a replay."""

from __future__ import annotations

from foedus.client.http import Connection
from foedus.domain.round import PhaseOrder
from foedus.engine.replay import Recorded
from foedus.schedules.schedule import Asked, Event, Failed, Reported, Tick
from foedus.wire.recording import HeardEvent, PhaseHeard, RoundHeard


def recording(connection: Connection, run: str, rounds: int) -> list[Recorded]:
    """The record of a run's first ``rounds`` rounds.

    Raises:
        FoedusError: the coordinator's own error, or an :class:`UnreachableError`.
    """
    heard = [connection.get(f"/runs/{run}/rounds/{number}/heard", RoundHeard) for number in range(1, rounds + 1)]
    return [recorded(phase) for each in heard for phase in each.phases]


def recorded(phase: PhaseHeard) -> Recorded:
    """One attempt of a phase, as the replay takes it."""
    order = PhaseOrder(phase.round, phase.phase, phase.clients, phase.attempt)
    return Recorded(order, tuple(_event(event) for event in phase.events))


def _event(event: HeardEvent) -> Event:
    match event.kind:
        case "asked":
            return Asked(event.clients, event.at)
        case "tick":
            return Tick(event.at)
        case "reported":
            return Reported(event.clients[0], event.at, event.staleness)
        case _:
            return Failed(event.clients[0], event.at)
