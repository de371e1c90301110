"""Sweeps: which runs there are, what their settings came to, and which is the best."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence

import pytest

from foedus.domain.errors import UsageError
from foedus.engine.json_text import to_json
from foedus.engine.sweep import (
    Ended,
    Planned,
    Setting,
    as_csv,
    as_html,
    as_json,
    cells,
    compared,
    measure_of,
    planned,
)


def ended(values: Sequence[Sequence[float | None]], metric: str = "test/accuracy") -> list[Ended]:
    runs = []
    for at, seeds in enumerate(values):
        setting = Setting(f"{at:02}", {"lr": f"0.{at}"})
        for seed, value in enumerate(seeds):
            run = Planned(f"{at:02}-seed{seed}", setting, seed)
            runs.append(
                Ended(run, "failed", {}, error="x") if value is None else Ended(run, "completed", {metric: value})
            )
    return runs


def test_every_value_meets_every_other_and_every_seed() -> None:
    runs = planned({"a": ["1", "2"], "b": ["x", "y", "z"]}, [7, 8])
    assert len({run.name for run in runs}) == len(runs) == 12
    assert [run.overrides for run in runs[:3]] == [
        {"a": "1", "b": "x", "seed": "7"},
        {"a": "1", "b": "x", "seed": "8"},
        {"a": "1", "b": "y", "seed": "7"},
    ]
    assert [run.overrides for run in planned({}, [3])] == [{"seed": "3"}]


def test_too_many_runs_are_refused() -> None:
    with pytest.raises(UsageError) as refused:
        planned({"a": list(map(str, range(200))), "b": list(map(str, range(51)))}, [1])
    assert refused.value.code == "sweep_too_large"


@pytest.mark.parametrize(("direction", "best"), [("max", 1), ("min", 0)])
def test_the_mean_and_the_sample_deviation_of_each_setting(direction: str, best: int) -> None:
    rows = compared(ended([[0.1, 0.2, 0.4], [0.5, 0.6, 0.9]]), "test/accuracy", direction)
    mean, deviation = rows[0].metrics["test/accuracy"]
    assert mean == pytest.approx(0.7 / 3)
    assert deviation == pytest.approx(statistics.stdev([0.1, 0.2, 0.4]))
    assert [row.best for row in rows] == [at == best for at in range(2)]
    assert cells(rows[best], ["test/accuracy"])[0].startswith("* lr=")


def test_failed_runs_are_counted_and_left_out() -> None:
    rows = compared(ended([[0.1, None], [None, None]]), "test/accuracy", "max")
    assert [(row.completed, row.runs) for row in rows] == [(1, 2), (0, 2)]
    mean, deviation = rows[0].metrics["test/accuracy"]
    assert mean == 0.1
    assert math.isnan(deviation)
    assert rows[1].metrics == {}
    assert [row.best for row in rows] == [True, False]


def test_a_setting_that_diverged_is_never_the_best() -> None:
    rows = compared(ended([[math.nan, 0.1], [math.inf, 1.0], [0.2, 0.2]]), "test/accuracy", "max")
    assert [row.best for row in rows] == [False, False, True]
    assert all(cell for cell in cells(rows[0], ["test/accuracy"]))


def test_one_setting_is_not_marked_and_none_is_no_error() -> None:
    assert [row.best for row in compared(ended([[0.1, 0.2]]), "test/accuracy", "max")] == [False]
    assert compared([], "", "max") == []
    assert measure_of({}, []) == ("", "max")


def test_it_is_written_for_programs_tables_and_people() -> None:
    runs = ended([[0.1, None], [0.3, math.nan]])
    rows = compared(runs, "test/accuracy", "max")
    whole = as_json(rows, runs)
    assert to_json(whole).count("null") >= 1
    lines = list(csv.DictReader(as_csv(runs).splitlines()))
    assert [line["folder"] for line in lines] == [run.planned.name for run in runs]
    assert [line["test/accuracy"] for line in lines] == ["0.1", "", "0.3", "nan"]
    page = as_html("<digits>", rows, runs, "test/accuracy")
    assert "&lt;digits&gt;" in page
    assert "failed x" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
