"""Runs and rounds move only along legal edges, and what has ended for good stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.domain.errors import ConflictError
from foedus.domain.lifecycle import (
    ACTIVE,
    AT_REST,
    ENDED,
    ROUND_MOVES,
    RUN_MOVES,
    RoundStage,
    RunStatus,
    move_round,
    move_run,
)


@given(st.lists(st.sampled_from(list(RunStatus)), min_size=1, max_size=8))
def test_a_run_moves_only_along_legal_edges(wanted: list[RunStatus]) -> None:
    now = RunStatus.DRAFT
    for to in wanted:
        if to in RUN_MOVES[now]:
            now = move_run(now, to)
            continue
        with pytest.raises(ConflictError) as refusal:
            move_run(now, to)
        assert refusal.value.code == "run_state"


@given(st.lists(st.sampled_from(list(RoundStage)), min_size=1, max_size=8))
def test_a_round_moves_only_along_legal_edges(wanted: list[RoundStage]) -> None:
    now = RoundStage.PLANNED
    for to in wanted:
        if to in ROUND_MOVES[now]:
            now = move_round(now, to)
            continue
        with pytest.raises(ConflictError) as refusal:
            move_round(now, to)
        assert refusal.value.code == "round_state"


def test_every_place_has_its_moves_and_what_has_ended_for_good_has_none() -> None:
    assert set(RUN_MOVES) == set(RunStatus) and set(ROUND_MOVES) == set(RoundStage)
    assert {status for status, moves in RUN_MOVES.items() if not moves} == ENDED - {RunStatus.FAILED}
    assert {stage for stage, moves in ROUND_MOVES.items() if not moves} == {
        RoundStage.COMMITTED,
        RoundStage.ABANDONED,
    }
    assert not ACTIVE & AT_REST and set(RunStatus) - {RunStatus.DRAFT} == ACTIVE | AT_REST


def test_a_round_can_be_abandoned_wherever_it_is() -> None:
    assert all(RoundStage.ABANDONED in moves for moves in ROUND_MOVES.values() if moves)


def test_what_is_refused_says_what_is_allowed() -> None:
    with pytest.raises(ConflictError, match="A run that is draft cannot become running") as refusal:
        move_run(RunStatus.DRAFT, RunStatus.RUNNING)
    assert refusal.value.why == "From draft it may become: cancelled, waiting."
