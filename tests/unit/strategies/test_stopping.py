"""Stopping early: what ends a run, and what may not be asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.domain.errors import ConfigError
from foedus.domain.stop import StopTable
from foedus.domain.tree import State
from foedus.strategies.stopping import ending, next_round, stopped
from tests.plans import spec

DIRECTIONS = {"loss": "min", "accuracy": "max", "error": "min"}


def end_after(values: list[float | None], metric: str = "test/accuracy", **stop: Any) -> tuple[int, str]:
    """In which round a run with these values ends, and why; 0 where it goes on to its last round."""
    end = ending(spec(stop={"metric": metric, **stop}), DIRECTIONS)
    state = State({}, {"round": 1, "phase": 2})
    for number, value in enumerate(values, 1):
        state = end(state, {} if value is None else {metric: value})
        assert state.data["round"] == number + 1
        if stopped(state):
            return number, stopped(state)
    return 0, ""


def test_a_run_without_the_table_goes_on() -> None:
    state = State({}, {"round": 1, "phase": 2})
    assert ending(spec(), DIRECTIONS)(state, {"test/accuracy": 1.0}) == next_round(state)


def test_it_ends_when_the_target_is_reached_in_the_metric_s_direction() -> None:
    assert end_after([0.5, 0.89, 0.9, 0.95], target=0.9)[0] == 3
    assert end_after([0.5, 0.2, 0.1], metric="test/loss", target=0.2)[0] == 2
    assert "target is 0.9" in end_after([0.9], target=0.9)[1]


def test_it_ends_when_nothing_has_improved_for_so_many_rounds() -> None:
    number, why = end_after([0.5, 0.6, 0.6, 0.55, 0.9], patience=2)
    assert number == 4
    assert "since round 2 (0.6)" in why
    assert end_after([0.5, 0.6, 0.6, 0.7, 0.6, 0.8], patience=2)[0] == 0


def test_rounds_that_measured_nothing_or_no_number_decide_nothing() -> None:
    assert end_after([0.5, None, None, None, 0.6], patience=2)[0] == 0
    assert end_after([0.5, None, None, 0.5], patience=2)[0] == 4
    assert end_after([math.nan, math.inf, 0.1], patience=1, target=0.9)[0] == 0


def test_before_the_minimum_of_rounds_nothing_ends() -> None:
    assert end_after([0.9, 0.9, 0.9], target=0.9, minimum=3)[0] == 3
    assert end_after([0.5, 0.4, 0.4, 0.4], patience=1, minimum=3)[0] == 3


def test_an_improvement_has_to_be_larger_than_delta() -> None:
    assert end_after([0.5, 0.505, 0.508], patience=2, delta=0.01)[0] == 3
    assert end_after([0.5, 0.505, 0.515], patience=2, delta=0.01)[0] == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 5))
def test_stopping_is_what_its_definition_says(values: list[float], patience: int) -> None:
    wanted = 0
    for number in range(1, len(values) + 1):
        best = values.index(max(values[:number])) + 1
        if number - best >= patience:
            wanted = number
            break
    assert end_after(list(values), patience=patience)[0] == wanted


@pytest.mark.parametrize(
    ("metric", "changes", "named"),
    [
        ("test/acuracy", {}, "accuracy"),
        ("train/accuracy", {}, "test/accuracy"),
        ("test/loss", {"test": {"ratio": 0}}, "test.ratio"),
        ("central/loss", {}, "central_every"),
    ],
)
def test_a_metric_that_is_never_measured_is_refused(metric: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ending(spec(stop={"metric": metric, "patience": 1}, **changes), DIRECTIONS)
    assert refused.value.code == "stop_refused"
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "table", [{}, {"metric": "test/loss"}, {"metric": "loss", "target": 1.0}, {"metric": "test/loss", "patience": 0}]
)
def test_a_table_that_cannot_stop_anything_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="StopTable"):
        StopTable.model_validate(table)
