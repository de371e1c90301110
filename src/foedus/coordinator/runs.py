"""What people do with runs: submit, list and show them, and read their rounds and models."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from foedus.coordinator.identities import Person
from foedus.coordinator.moves import attempt_of
from foedus.coordinator.orders import ONGOING
from foedus.coordinator.policy import within
from foedus.coordinator.readiness import statuses, waiting_for
from foedus.coordinator.run_rows import RUN, RunRow, find_run, spec_of
from foedus.domain.errors import NotFoundError
from foedus.domain.lifecycle import ENDED
from foedus.store.tables import assignments, blobs, events, phases, rounds, runs
from foedus.wire.messages import (
    ModelList,
    ModelView,
    PhaseView,
    ReceiptView,
    RoundList,
    RoundView,
    RunList,
    RunView,
)

LIST_LIMIT = 500
ALERTS = 5


def show(connection: Connection, run: str) -> RunView:
    """One run, with its clients and who is waiting for whom."""
    return view(connection, find_run(connection, run))


def list_runs(connection: Connection, who: Person) -> RunList:
    """The runs that somebody may see, the newest first, without their clients and specs."""
    mine = within(who, "runs.read", runs.c.owner_id, runs.c.org_id)
    rows = connection.execute(RUN.where(mine).order_by(runs.c.created_at.desc()).limit(LIST_LIMIT)).all()
    return RunList(runs=tuple(_summary(connection, row) for row in rows))


def list_rounds(connection: Connection, run: str) -> RoundList:
    """The rounds that were committed, in order."""
    find_run(connection, run)
    query = select(rounds).where(rounds.c.run_id == run, rounds.c.round > 0).order_by(rounds.c.round)
    return RoundList(rounds=tuple(_round_view(row.record) for row in connection.execute(query)))


def list_models(connection: Connection, run: str) -> ModelList:
    """The model after each round; round 0 is the initial one."""
    find_run(connection, run)
    return ModelList(models=_models(connection, run))


def model_of(connection: Connection, run: str, number: int) -> ModelView:
    """The model after a round; 0: the initial one.

    Raises:
        NotFoundError: ``run_unknown``, ``model_missing``.
    """
    find_run(connection, run)
    if found := _models(connection, run, rounds.c.round == number):
        return found[0]
    last = connection.execute(select(func.max(rounds.c.round)).where(rounds.c.run_id == run)).scalar()
    raise NotFoundError(
        "model_missing",
        f"Run {run} has no model of round {number}.",
        "It has none yet." if last is None else f"It has models of the rounds 0 to {last}.",
        "Name another round.",
    )


def _models(connection: Connection, run: str, *wanted: ColumnElement[bool]) -> tuple[ModelView, ...]:
    columns = (rounds.c.round, rounds.c.model_digest, rounds.c.model_blob.label("blob"), blobs.c.size)
    query = select(*columns).join(blobs, blobs.c.digest == rounds.c.model_blob).where(rounds.c.run_id == run, *wanted)
    rows = connection.execute(query.order_by(rounds.c.round))
    return tuple(ModelView(run=run, **row._mapping) for row in rows)


def view(connection: Connection, run: RunRow) -> RunView:
    """A run as people see it."""
    summary = _summary(connection, run)
    details: dict[str, Any] = {"spec": run.spec, "alerts": _alerts(connection, run.id)}
    if run.status not in ENDED:
        details |= {
            "clients": statuses(connection, run, time.time()),
            "waiting_for": waiting_for(connection, run),
        }
    return summary.model_copy(update=details)


def _alerts(connection: Connection, run: str) -> tuple[str, ...]:
    """What people should look into: the last times that a part of the run's state was damaged and made again."""
    here = (events.c.run_id == run, events.c.kind == "state_mended")
    rows = connection.execute(select(events.c.data).where(*here).order_by(events.c.number.desc()).limit(ALERTS))
    return tuple(row.data["reason"] for row in rows)


def followers(connection: Connection, run: str) -> list[str]:
    """The nodes that were ever asked for a run: they hear when it ends."""
    query = select(assignments.c.node_id).where(assignments.c.run_id == run, assignments.c.node_id.is_not(None))
    return [str(node) for node in connection.execute(query.distinct()).scalars()]


def _summary(connection: Connection, run: RunRow) -> RunView:
    latest = connection.execute(
        select(rounds).where(rounds.c.run_id == run.id).order_by(rounds.c.round.desc()).limit(1)
    ).one_or_none()
    here = (phases.c.run_id == run.id, phases.c.status.in_(ONGOING))
    phase = connection.execute(select(func.max(phases.c.phase)).where(*here)).scalar()
    spec, stage = spec_of(run), attempt_of(connection, run.id, run.data.get("round", 1))
    return RunView(
        id=run.id,
        name=run.name,
        status=run.status,
        reason=run.reason,
        round=0 if latest is None else latest.round,
        rounds=spec.rounds,
        phase="" if run.status in ENDED else phase or "",
        stage="" if stage is None else stage.stage,
        plan=run.plan,
        strategy=spec.strategy.name,
        created_at=datetime.fromtimestamp(run.created_at, UTC),
        model_digest="" if latest is None else latest.model_digest,
        metrics={} if latest is None else latest.record.get("metrics", {}),
        alignment=run.alignment,
    )


def _round_view(record: dict[str, Any]) -> RoundView:
    """A committed round, as :meth:`LivePort.end_round` stored it, as a message."""
    views = tuple(
        PhaseView(
            **{key: value for key, value in phase.items() if key != "receipts"},
            receipts=tuple(
                ReceiptView(**{key: value for key, value in receipt.items() if key != "state"})
                for receipt in phase["receipts"]
            ),
        )
        for phase in record["phases"]
    )
    return RoundView(**{key: value for key, value in record.items() if key != "phases"}, phases=views)
