"""The life of a run and the life of a round, as two tables of legal moves; every writer goes through them.

::

    draft → waiting → running ⇄ paused → completed | failed | cancelled
    planned → reporting → aggregating → testing → committed, or abandoned

A run that failed may be tried again; one that was completed or cancelled has ended for good. A round is one attempt
of it: when too few clients answer, the attempt is abandoned with a reason, and the next one is planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from foedus.domain.errors import ConflictError


class RunStatus(StrEnum):
    """Where a run is in its life."""

    DRAFT = "draft"
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RoundStage(StrEnum):
    """Where an attempt of a round is in its life."""

    PLANNED = "planned"
    REPORTING = "reporting"
    AGGREGATING = "aggregating"
    TESTING = "testing"
    COMMITTED = "committed"
    ABANDONED = "abandoned"


Place = TypeVar("Place", RunStatus, RoundStage)

RUN_MOVES: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.DRAFT: frozenset({RunStatus.WAITING, RunStatus.CANCELLED}),
    RunStatus.WAITING: frozenset({RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset({RunStatus.PAUSED, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.PAUSED: frozenset({RunStatus.WAITING, RunStatus.RUNNING, RunStatus.CANCELLED}),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset({RunStatus.WAITING, RunStatus.RUNNING}),
    RunStatus.CANCELLED: frozenset(),
}

ROUND_MOVES: Mapping[RoundStage, frozenset[RoundStage]] = {
    RoundStage.PLANNED: frozenset({RoundStage.REPORTING, RoundStage.ABANDONED}),
    RoundStage.REPORTING: frozenset({RoundStage.AGGREGATING, RoundStage.ABANDONED}),
    # Back to reporting: for a further phase, or because the run was paused or failed while it aggregated.
    RoundStage.AGGREGATING: frozenset(
        {RoundStage.REPORTING, RoundStage.TESTING, RoundStage.COMMITTED, RoundStage.ABANDONED}
    ),
    RoundStage.TESTING: frozenset({RoundStage.COMMITTED, RoundStage.ABANDONED}),
    RoundStage.COMMITTED: frozenset(),
    RoundStage.ABANDONED: frozenset(),
}

ACTIVE = frozenset({RunStatus.WAITING, RunStatus.RUNNING})
"""A driver has these in hand."""

ENDED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
"""Nothing happens to these unless a person wants it."""

OVER = frozenset({RunStatus.COMPLETED, RunStatus.CANCELLED})
"""These have ended for good."""

AT_REST = ENDED | {RunStatus.PAUSED}
"""Nodes do not work for these."""


def move_run(now: RunStatus, to: RunStatus) -> RunStatus:
    """The run's new status, if the move is legal.

    Raises:
        ConflictError: ``run_state``.

    >>> move_run(RunStatus.WAITING, RunStatus.RUNNING)
    <RunStatus.RUNNING: 'running'>
    """
    return _move("run", RUN_MOVES, now, to)


def move_round(now: RoundStage, to: RoundStage) -> RoundStage:
    """The round's new stage, if the move is legal.

    Raises:
        ConflictError: ``round_state``.

    >>> move_round(RoundStage.REPORTING, RoundStage.AGGREGATING)
    <RoundStage.AGGREGATING: 'aggregating'>
    """
    return _move("round", ROUND_MOVES, now, to)


def _move(noun: str, moves: Mapping[Place, frozenset[Place]], now: Place, to: Place) -> Place:
    if to in moves[now]:
        return to
    allowed = ", ".join(sorted(moves[now]))
    why = f"From {now} it may become: {allowed}." if allowed else f"What is {now} has ended for good."
    fix = "Submit a new one." if noun == "run" and not allowed else ""
    raise ConflictError(f"{noun}_state", f"A {noun} that is {now} cannot become {to}.", why, fix)
