"""The door to what a run's schedules heard, round by round, in the order in which it was committed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from sqlalchemy import Connection, select

from foedus.coordinator.context import context
from foedus.coordinator.http import person
from foedus.coordinator.identities import Person
from foedus.coordinator.policy import acts
from foedus.coordinator.run_rows import find_run
from foedus.store.tables import phase_events, phases
from foedus.wire.recording import HeardEvent, PhaseHeard, RoundHeard

router = APIRouter(prefix="/api/v1/runs", tags=["people"])
Who = Annotated[Person, Depends(person)]
Number = Annotated[int, Path(ge=1, le=2**31)]


@router.get("/{run}/rounds/{number}/heard", **acts("runs.read"))
def get_heard(request: Request, run: str, number: Number, who: Who) -> RoundHeard:
    """What the phases of a round heard: with it the round can be replayed in a simulation."""
    with context(request).store.reading() as tx:
        return heard(tx, run, number)


def heard(tx: Connection, run: str, number: int) -> RoundHeard:
    """The record of one round; empty where it has not begun.

    Raises:
        NotFoundError: ``run_unknown``.
    """
    find_run(tx, run)
    here = (phases.c.run_id == run, phases.c.round == number)
    rows = tx.execute(select(phases).where(*here).order_by(phases.c.opened_at, phases.c.attempt)).all()
    told: dict[tuple[str, int], list[HeardEvent]] = {(row.phase, row.attempt): [] for row in rows}
    events = select(phase_events).where(phase_events.c.run_id == run, phase_events.c.round == number)
    for row in tx.execute(events.order_by(phase_events.c.seq)):
        clients = tuple(row.clients) if row.kind == "asked" else tuple(filter(None, (row.client,)))
        event = HeardEvent(kind=row.kind, clients=clients, at=row.at, staleness=row.staleness)
        told[row.phase, row.attempt].append(event)
    return RoundHeard(
        phases=tuple(
            PhaseHeard(
                round=number,
                phase=row.phase,
                attempt=row.attempt,
                clients=tuple(row.clients),
                events=tuple(told[row.phase, row.attempt]),
            )
            for row in rows
        )
    )
