"""How people steer a run: start, pause, resume, retry, cancel. Each is one legal move, made once."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from foedus.coordinator.drawing import restart_clocks
from foedus.coordinator.moves import move_run, reach, stage_of
from foedus.coordinator.orders import ONGOING, PHASE_OF, PLACE
from foedus.coordinator.readiness import candidates, check_unambiguous
from foedus.coordinator.run_rows import RunRow, find_run
from foedus.domain.errors import ConflictError, UsageError
from foedus.domain.lifecycle import ACTIVE, RoundStage, RunStatus
from foedus.store.artifacts import Artifacts
from foedus.store.tables import assignments, phase_events, phases, runs


def start(tx: Connection, run: str) -> None:
    """Let a draft begin: it waits until its participants are ready, and then runs.

    Raises:
        UsageError: ``run_started`` where it is no draft; ``participants_missing`` where no dataset matches its tags.
        ConflictError: ``dataset_ambiguous`` where two of one node do.
    """
    row = find_run(tx, run)
    if row.status != RunStatus.DRAFT:
        raise UsageError(
            "run_started",
            f"Run {run} was started before; it is {row.status}.",
            "A run is started once.",
            "Submit it anew for another one.",
        )
    if not candidates(tx, row):
        raise UsageError(
            "participants_missing",
            f"Run {run} has no participants.",
            "No node that has joined offers a dataset with all of its tags.",
            "Have nodes join and offer data (`foedus node data add`), then start it; "
            "`foedus run submit` waits for them.",
        )
    check_unambiguous(tx, row)
    move_run(tx, row, RunStatus.WAITING, time.time())


def pause(tx: Connection, run: str) -> None:
    """Let a run rest: nodes stop working for it, and what they have contributed stays. Paused twice, it rests once.

    Raises:
        ConflictError: ``run_state``.
    """
    row = find_run(tx, run)
    if row.status != RunStatus.PAUSED:
        move_run(tx, row, RunStatus.PAUSED, time.time())
        _void(tx, row)


def cancel(tx: Connection, run: str) -> None:
    """End a run before its time, for good; cancelled twice, it is cancelled once. Its models stay.

    Raises:
        ConflictError: ``run_state`` where it has ended otherwise.
    """
    row, now = find_run(tx, run), time.time()
    if row.status == RunStatus.CANCELLED:
        return
    move_run(tx, row, RunStatus.CANCELLED, now, "cancelled")
    _void(tx, row)
    undone = (assignments.c.run_id == run, assignments.c.status == "open")
    tx.execute(update(assignments).where(*undone).values(status="closed"))
    ongoing = (phases.c.run_id == run, phases.c.status.in_(ONGOING))
    for number in tx.execute(select(phases.c.round).where(*ongoing)).scalars().all():
        reach(tx, row, number, RoundStage.ABANDONED, now, reason="the run was cancelled")
    tx.execute(update(phases).where(*ongoing).values(status="abandoned", reason="the run was cancelled"))


def resume(tx: Connection, run: str) -> None:
    """Let a run that was paused go on, with what was contributed so far; one that goes on already is left alone.

    Raises:
        ConflictError: ``run_state`` where it is neither paused nor under way.
    """
    row = find_run(tx, run)
    if row.status not in ACTIVE:
        _take_up(tx, row, RunStatus.PAUSED)


def retry(tx: Connection, artifacts: Artifacts, run: str) -> None:
    """Let a run that failed go on, with what was contributed so far; clients whose updates are lost are asked again.

    Raises:
        ConflictError: ``run_state`` where it has not failed.
    """
    row = find_run(tx, run)
    if row.status in ACTIVE:
        return
    _take_up(tx, row, RunStatus.FAILED)
    done = (assignments.c.run_id == run, assignments.c.status == "done", phases.c.status.in_(ONGOING))
    for found in tx.execute(select(assignments).join(phases, PHASE_OF).where(*done)).all():
        if found.update is not None and not artifacts.has(found.update):
            _ask_again(tx, found)


def _take_up(tx: Connection, run: RunRow, expected: RunStatus) -> None:
    """Go on where the run stood. A phase that was open is open again, with a fresh deadline; no old lease holds.

    Raises:
        ConflictError: ``run_state``.
    """
    if run.status != expected:
        verb = {RunStatus.PAUSED: "resume", RunStatus.FAILED: "retry"}.get(RunStatus(run.status))
        fix = f"`foedus run {verb} {run.id}` lets it go on." if verb else ""
        raise ConflictError("run_state", f"Run {run.id} is {run.status}, and not {expected}.", "", fix)
    now = time.time()
    move_run(tx, run, RunStatus.WAITING if run.started_at is None else RunStatus.RUNNING, now)
    _void(tx, run)
    restart_clocks(tx, run.id, now)
    ongoing = (phases.c.run_id == run.id, phases.c.status.in_(ONGOING))
    for number in tx.execute(select(phases.c.round).where(*ongoing)).scalars().all():
        if stage_of(tx, run.id, number) is RoundStage.AGGREGATING:
            reach(tx, run, number, RoundStage.REPORTING, now)
    tx.execute(update(phases).where(*ongoing).values(opened_at=now, status="open"))


def _void(tx: Connection, run: RunRow) -> None:
    """What was begun under the run's epoch of before, by drivers and by nodes, counts no more."""
    tx.execute(update(runs).where(runs.c.id == run.id).values(epoch=runs.c.epoch + 1))
    leased = (assignments.c.run_id == run.id, assignments.c.status == "leased")
    tx.execute(update(assignments).where(*leased).values(status="open", lease_until=None))


def _ask_again(tx: Connection, assignment: Row[Any]) -> None:
    here = [phase_events.c[name] == assignment._mapping[name] for name in (*PLACE, "client")]
    tx.execute(delete(phase_events).where(*here))
    blank = {"status": "open", "update": None, "contribution": None, "receipt": None}
    tx.execute(update(assignments).where(assignments.c.id == assignment.id).values(**blank))
