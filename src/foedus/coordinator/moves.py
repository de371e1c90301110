"""The only writers of where runs and rounds are: each move is legal, guarded by its beginning, and told as an event."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from foedus.coordinator.telling import tell
from foedus.domain import lifecycle
from foedus.domain.errors import ConflictError
from foedus.domain.lifecycle import RoundStage, RunStatus
from foedus.domain.plain import Json
from foedus.domain.round import PhaseOrder
from foedus.store.lifecycle import round_attempts
from foedus.store.tables import runs
from foedus.wire.events import Kind

RUN_TOLD: dict[RunStatus, Kind] = {
    RunStatus.DRAFT: "run_drafted",
    RunStatus.WAITING: "run_waiting",
    RunStatus.RUNNING: "run_started",
    RunStatus.PAUSED: "run_paused",
    RunStatus.COMPLETED: "run_completed",
    RunStatus.FAILED: "run_failed",
    RunStatus.CANCELLED: "run_cancelled",
}
TAKEN_UP: dict[RunStatus, Kind] = {RunStatus.PAUSED: "run_resumed", RunStatus.FAILED: "run_retried"}
"""What it is told as that a run goes on, be it waiting or running."""

ROUND_TOLD: dict[RoundStage, Kind] = {
    RoundStage.PLANNED: "round_started",
    RoundStage.REPORTING: "round_reporting",
    RoundStage.AGGREGATING: "round_aggregating",
    RoundStage.TESTING: "round_testing",
    RoundStage.COMMITTED: "round_committed",
    RoundStage.ABANDONED: "round_abandoned",
}


def move_run(tx: Connection, run: Row[Any], to: RunStatus, now: float, reason: str = "") -> None:
    """Move a run along a legal edge, and tell it.

    Raises:
        ConflictError: ``run_state``, also where somebody else has moved it meanwhile.
    """
    was = RunStatus(run.status)
    values: dict[str, Any] = {"status": lifecycle.move_run(was, to).value, "reason": reason, "updated_at": now}
    if to is RunStatus.RUNNING and run.started_at is None:
        values["started_at"] = now
    here = (runs.c.id == run.id, runs.c.status == was.value)
    if tx.execute(update(runs).where(*here).values(**values)).rowcount != 1:
        raise ConflictError("run_state", f"The run {run.id} was moved meanwhile.", "", "Look at it, and try again.")
    kind = TAKEN_UP.get(was, RUN_TOLD[to]) if to in lifecycle.ACTIVE else RUN_TOLD[to]
    tell(tx, run, kind, now, status=to.value, reason=reason)


def open_round(tx: Connection, run: Row[Any], order: PhaseOrder, to: RoundStage, now: float) -> None:
    """A phase of a round opens: the attempt that goes on reports or tests; where there is none, one is planned first.

    Raises:
        ConflictError: ``round_state``.
    """
    found = attempt_of(tx, run.id, order.round)
    if found is None or found.stage == RoundStage.ABANDONED:
        number = 0 if found is None else found.attempt + 1
        key = {"run_id": run.id, "round": order.round, "attempt": number}
        row = {**key, "stage": RoundStage.PLANNED.value, "began_at": now, "updated_at": now}
        tx.execute(insert(round_attempts).values(**row))
        tell(tx, run, ROUND_TOLD[RoundStage.PLANNED], now, round=order.round, attempt=number)
    reach(tx, run, order.round, to, now, phase=order.phase, asked=list(order.clients))


def reach(tx: Connection, run: Row[Any], number: int, to: RoundStage, now: float, **facts: Json) -> None:
    """Move the attempt of a round that goes on; one that is there already stays, and nothing is told.

    Raises:
        ConflictError: ``round_state``.
    """
    found = attempt_of(tx, run.id, number)
    if found is None or found.stage == to:
        return
    stage = lifecycle.move_round(RoundStage(found.stage), to)
    key = ("run_id", "round", "attempt", "stage")
    here = [round_attempts.c[name] == found._mapping[name] for name in key]
    values = {"stage": stage.value, "reason": facts.get("reason", ""), "updated_at": now}
    if tx.execute(update(round_attempts).where(*here).values(**values)).rowcount != 1:
        raise ConflictError("round_state", f"Round {number} of {run.id} was moved meanwhile.")
    tell(tx, run, ROUND_TOLD[stage], now, round=number, attempt=found.attempt, **facts)


def attempt_of(tx: Connection, run: str, number: int) -> Row[Any] | None:
    """The last attempt of a round."""
    here = (round_attempts.c.run_id == run, round_attempts.c.round == number)
    return tx.execute(
        select(round_attempts).where(*here).order_by(round_attempts.c.attempt.desc()).limit(1)
    ).one_or_none()


def stage_of(tx: Connection, run: str, number: int) -> RoundStage | None:
    """Where the last attempt of a round is."""
    found = attempt_of(tx, run, number)
    return None if found is None else RoundStage(found.stage)


def fail_run(tx: Connection, run: Row[Any], number: int, now: float, reason: str) -> None:
    """The run cannot go on by itself; the round that it was in says why, and stays where it is.

    Raises:
        ConflictError: ``run_state``.
    """
    move_run(tx, run, RunStatus.FAILED, now, reason)
    found = attempt_of(tx, run.id, number)
    if found is not None and lifecycle.ROUND_MOVES[RoundStage(found.stage)]:
        here = [round_attempts.c[name] == found._mapping[name] for name in ("run_id", "round", "attempt")]
        tx.execute(update(round_attempts).where(*here).values(reason=reason, updated_at=now))
