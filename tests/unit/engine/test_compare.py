"""Runs beside one another: which is better, who got there first, and what differs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from foedus.domain.errors import ConfigError
from foedus.domain.round import PhaseRecord, RoundRecord
from foedus.engine.compare import (
    Goal,
    Recorded,
    best,
    comparison,
    comparison_html,
    comparison_rows,
    difference_rows,
    differences,
    goal_of,
    more_is_better,
)
from foedus.engine.history import row_of


def run(label: str, values: Sequence[float], model: str = "m", name: str = "accuracy", **settings: object) -> Recorded:
    phases = [PhaseRecord("test", ("a",), (), {name: value}, bytes_down=1000, bytes_up=500) for value in values]
    records = [RoundRecord(at, (phase,), f"{model}{at}", 0.5) for at, phase in enumerate(phases, 1)]
    summary = {"status": "completed", "seconds": 1.5, "kernel": "eager", "executor": "inline"}
    return Recorded(label, settings, summary, {"accuracy": "max", "error": "min"}, [row_of(r) for r in records])


A = run("a", [0.2, 0.6, 0.5], rounds=3)
B = run("b", [0.7, 0.8, 0.9], model="n", rounds=3, lr=0.1)


def test_the_best_is_the_first_of_the_highest_or_of_the_lowest() -> None:
    assert best(run("c", [0.2, 0.6, 0.6, math.nan]), "test/accuracy", True) == (0.6, 2)
    assert best(run("c", [0.2, 0.1, 0.1]), "test/accuracy", False) == (0.1, 2)
    assert best(A, "test/loss", True) is None


def test_directions_are_the_plan_s_and_a_loss_is_better_when_less() -> None:
    assert more_is_better([A, B], "test/accuracy")
    assert not more_is_better([A], "test/error")
    assert not more_is_better([A], "train/loss")


def test_the_goal_is_what_every_run_reached_unless_one_is_given() -> None:
    assert goal_of([A, B], None) == Goal("test/accuracy", 0.6, True)
    assert goal_of([A, B], ("test/accuracy", 0.85)) == Goal("test/accuracy", 0.85, True)
    assert goal_of([A, run("c", [0.1], name="error")], None) is None
    with pytest.raises(ConfigError, match="test/accuracy"):
        goal_of([A, B], ("test/acuracy", 0.5))


def test_the_data_say_all_of_it() -> None:
    found = comparison([A, B], Goal("test/accuracy", 0.6, True))
    assert [each["rounds_to_goal"] for each in found["runs"]] == [2, 1]
    assert [each["bytes_down"] for each in found["runs"]] == [3000, 3000]
    assert found["runs"][0]["best"] == {"test/accuracy": {"value": 0.6, "round": 2}}
    assert not found["same_model"]
    assert comparison([A, A], None)["same_model"]
    assert found["differs"] == {"lr": [None, 0.1]}
    assert differences([A, A]) == {}


def test_a_key_that_a_run_does_not_have_is_shown_as_absent() -> None:
    assert difference_rows([A, B]) == [["lr", "–", "0.1"]]
    assert "None" not in comparison_html([A, B], None)


def test_the_table_has_a_column_per_run() -> None:
    rows = {row[0]: row[1:] for row in comparison_rows([A, B], Goal("test/accuracy", 0.7, True))}
    assert rows["test/accuracy"] == ["0.5000", "0.9000"]
    assert rows["best test/accuracy"] == ["0.6000 (round 2)", "0.9000 (round 3)"]
    assert rows["rounds to test/accuracy ≥ 0.7000"] == ["–", "1"]
    assert rows["bytes from clients"] == ["1.5 kB", "1.5 kB"]
    assert rows["time"] == ["1.5 s", "1.5 s"]


def test_the_page_overlays_the_curves_and_escapes_every_text() -> None:
    page = comparison_html([A, run("<b>", [0.1, 0.2, 0.3])], goal_of([A, B], None))
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert page.count("<polyline") == 4
    assert "test/accuracy over seconds" in page
    assert "<script" not in page
