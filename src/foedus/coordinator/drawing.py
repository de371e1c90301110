"""The side of a phase that asks as it goes: draws, asks that outlive their phase, and who has been out for too long.

An assignment that ``carries`` is out until its answer was heard in a phase that was open: ``heard`` is that event.
What is answered while no such phase is open waits, and is told to the next one when that is opened. So a driver that
begins again finds who is out, whom each draw asked and every event in the database, and comes to the same place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, func, insert, select, update

from foedus.coordinator.orders import LATE, Answers, add_assignments, assigned, key_of, matches
from foedus.domain.round import PhaseOrder, Receipt
from foedus.engine.round import There, plan_draw
from foedus.schedules.schedule import Draw
from foedus.store.tables import assignments, phase_events, phases
from foedus.strategies.strategy import Phase

UNDONE = ("open", "leased")
ANSWERED = ("done", "failed")

_EVENT = insert(phase_events)
_ANSWER = update(assignments).where(assignments.c.id == bindparam("ask"))


@dataclass(frozen=True)
class Wanted:
    """A draw of a phase, ``at`` seconds after it was opened."""

    order: PhaseOrder
    phase: Phase
    draw: Draw
    seed: int
    at: float


def is_out(run: str) -> ColumnElement[bool]:
    """Asks of a run that outlive their phase and whose answers no phase has heard."""
    live = assignments.c.status.in_(UNDONE + ANSWERED)
    return and_(assignments.c.run_id == run, assignments.c.carries == 1, assignments.c.heard.is_(None), live)


def out(tx: Connection, run: str) -> tuple[str, ...]:
    """Whose asks are out, in the order of names."""
    return tuple(tx.execute(select(assignments.c.client).where(is_out(run)).order_by(assignments.c.client)).scalars())


def draw_clients(tx: Connection, run: str, wanted: Wanted, population: Sequence[str]) -> set[str]:
    """Ask some of the idle, and record whom as an event, unless this draw was made before; returns their nodes."""
    order, phase = wanted.order, wanted.phase
    asked = (*matches(phase_events, run, order), phase_events.c.kind == "asked")
    if tx.execute(select(func.count()).select_from(phase_events).where(*asked)).scalar_one() > wanted.draw.number:
        return set()
    there = There(population, _busy(tx, run, order), _last(tx, run))
    chosen = plan_draw(phase, order, wanted.draw, there, wanted.seed)
    nodes = add_assignments(tx, run, order, chosen, carries=phase.schedule.carries)
    event = {"kind": "asked", "client": chosen[-1] if chosen else "", "clients": list(chosen), "at": wanted.at}
    tx.execute(insert(phase_events).values(**key_of(run, order), **event))
    return nodes


def hear_waiting(tx: Connection, run: str, order: PhaseOrder) -> None:
    """Tell a phase that is being opened what was answered while none was open, in the order of names."""
    waiting = select(assignments).where(is_out(run), assignments.c.status.in_(ANSWERED)).order_by(assignments.c.client)
    for row in tx.execute(waiting).all():
        hear(tx, row, order, 0.0, {"status": row.status})


def hear(tx: Connection, row: Row[Any], order: PhaseOrder | None, at: float, answer: Mapping[str, Any]) -> None:
    """Record what an assignment came to, and tell the phase of ``order``, with how stale it is.

    Where no phase listens there is no ``order``: the next one hears it when it opens.
    """
    heard = {}
    if order is not None:
        event = {"kind": "failed" if answer["status"] == "failed" else "reported", "client": row.client, "at": at}
        place = {**key_of(row.run_id, order), "staleness": order.round - row.round}
        key = tx.execute(_EVENT, {**place, **event}).inserted_primary_key
        assert key is not None, "one row was inserted"
        heard = {"heard": key[0]}
    tx.execute(_ANSWER, {"ask": row.id, **answer, **heard})


def listening(tx: Connection, row: Row[Any]) -> PhaseOrder | None:
    """The phase that hears an answer to this assignment: its own, or the open one of that name if it carries."""
    if not row.carries:
        return PhaseOrder(row.round, row.phase, (), row.attempt)
    here = (phases.c.run_id == row.run_id, phases.c.phase == row.phase, phases.c.status == "open")
    found = tx.execute(select(phases.c.round, phases.c.attempt).where(*here)).one_or_none()
    return None if found is None else PhaseOrder(found.round, row.phase, (), found.attempt)


def give_up(tx: Connection, run: str, order: PhaseOrder, late: Collection[str], why: str) -> None:
    """Whoever of these assignments has not answered has failed; the phase hears so."""
    here = (assignments.c.id.in_(late), assignments.c.status.in_(UNDONE), is_out(run))
    for row in tx.execute(select(assignments).where(*here).order_by(assignments.c.client)).all():
        receipt = asdict(Receipt(row.client, {}, {}, failure=why))
        hear(tx, row, order, 0.0, {"status": "failed", "lease_until": None, "receipt": receipt})


def end(tx: Connection, run: str) -> None:
    """The run is done: nobody waits for the asks that are out."""
    here = (is_out(run), assignments.c.status.in_(UNDONE))
    tx.execute(update(assignments).where(*here).values(status="closed", lease_until=None))


def restart_clocks(tx: Connection, run: str, now: float) -> None:
    """The run rested: who is out has as long again."""
    tx.execute(update(assignments).where(is_out(run), assignments.c.status.in_(UNDONE)).values(asked_at=now))


def undone_asks(tx: Connection, run: str) -> Mapping[str, float]:
    """The asks at work that may outlive their phase: assignment → when it was made, in seconds since the epoch."""
    columns = (assignments.c.id, assignments.c.asked_at)
    rows = tx.execute(select(*columns).where(is_out(run), assignments.c.status.in_(UNDONE)))
    return {row.id: row.asked_at for row in rows}


def drawn_answers(tx: Connection, run: str, order: PhaseOrder, counted: frozenset[str], *, carries: bool) -> Answers:
    """What came of a phase that drew: what it heard, each with its staleness; who did not answer, if nobody goes on."""
    rows = _heard(tx, run, order) if carries else assigned(tx, run, order)
    receipts = tuple(_receipt(row, order, counted) for row in rows)
    return Answers(receipts, {kept.client: kept.digest for kept in receipts if kept.digest and not kept.failure})


def asked_in(tx: Connection, run: str, order: PhaseOrder) -> tuple[str, ...]:
    """Whom the phase has asked itself, in the order of names."""
    return tuple(row.client for row in assigned(tx, run, order))


def unhear(tx: Connection, run: str, order: PhaseOrder, after: int) -> None:
    """What was told to the phase ``after`` the event with which it knew enough is told to the next one."""
    late = [row.id for row in _heard(tx, run, order) if row.heard > after]
    tx.execute(update(assignments).where(assignments.c.id.in_(late)).values(heard=None))


def _heard(tx: Connection, run: str, order: PhaseOrder) -> Sequence[Row[Any]]:
    here = (*matches(phase_events, run, order), assignments.c.carries == 1)
    query = select(assignments).join(phase_events, phase_events.c.seq == assignments.c.heard).where(*here)
    return tx.execute(query.order_by(assignments.c.client)).all()


def _receipt(row: Row[Any], order: PhaseOrder, counted: Collection[str]) -> Receipt:
    staleness = order.round - row.round
    if row.receipt is None:
        return Receipt(row.client, {}, {}, failure=LATE, staleness=staleness)
    kept = replace(Receipt(**row.receipt), staleness=staleness)
    if kept.failure or row.client in counted:
        return kept
    why = f"stale: It began with a model {staleness} versions old" if staleness else "late: It reported out of turn"
    return Receipt(row.client, {}, {}, size=kept.size, failure=f"{why}, and is not counted.", staleness=staleness)


def _busy(tx: Connection, run: str, order: PhaseOrder) -> set[str]:
    """Who is out, or was asked or heard in this phase."""
    heard = (*matches(phase_events, run, order), phase_events.c.kind.in_(("reported", "failed")))
    told = tx.execute(select(phase_events.c.client).where(*heard)).scalars()
    return {*out(tx, run), *asked_in(tx, run, order), *told}


def _last(tx: Connection, run: str) -> str:
    """Who was asked last by a draw of the run."""
    here = (phase_events.c.run_id == run, phase_events.c.kind == "asked", phase_events.c.client != "")
    found = select(phase_events.c.client).where(*here).order_by(phase_events.c.seq.desc()).limit(1)
    return str(tx.execute(found).scalar() or "")
