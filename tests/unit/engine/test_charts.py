"""Charts: they show what they were given, whatever it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.engine.charts import BINS, DRAWN, Series, bar_chart, histogram, line_chart, thinned, ticks

NUMBERS = st.floats(-1e12, 1e12)


@given(NUMBERS, NUMBERS)
def test_ticks_reach_over_the_range_in_few_even_steps(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), high - low) + 1e-9
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 8


def test_a_line_has_a_point_for_each_value_with_its_value_to_read() -> None:
    chart = line_chart([Series("test", [(1, 0.5), (2, 0.75)], "#123456")])
    assert re.findall(r"<title>(.*?)</title>", chart) == ["test, 1: 0.5", "test, 2: 0.75"]
    points = re.search(r'<polyline points="(.*?)"', chart)
    assert points is not None
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points[1].split())
    assert x0 < x1
    assert y0 > y1


@pytest.mark.parametrize("points", [[], [(1.0, float("nan"))]])
def test_a_line_without_values_says_so(points: list[tuple[float, float]]) -> None:
    assert "Nothing was measured" in line_chart([Series("test", points, "#123456")])


def test_one_point_or_one_height_is_drawn() -> None:
    assert "<circle" in line_chart([Series("test", [(3, 0.0)], "#123456")])
    assert "<circle" in line_chart([Series("test", [(1, 7.0), (2, 7.0)], "#123456")])


@given(st.lists(NUMBERS, min_size=1, max_size=3000))
def test_thinning_keeps_the_extremes_and_the_order(values: list[float]) -> None:
    points = list(enumerate(values))
    kept = list(thinned(points, 100))
    assert len(kept) <= max(100, min(len(points), 100))
    assert min(y for _, y in kept) == min(values)
    assert max(y for _, y in kept) == max(values)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_ten_thousand_rounds_are_a_short_line() -> None:
    chart = line_chart([Series("train", [(float(at), float(at % 7)) for at in range(10_000)], "#123456")])
    points = re.search(r'<polyline points="(.*?)"', chart)
    assert points is not None
    assert len(points[1].split()) <= DRAWN
    assert "<circle" not in chart


def test_bars_show_values_below_zero_and_values_that_are_none() -> None:
    chart = bar_chart([("a", -2.0), ("b", float("nan")), ("c", 3.0)])
    assert chart.count("<rect") == 3
    assert ">-2<" in chart
    assert ">nan<" in chart


@given(st.lists(NUMBERS, min_size=1, max_size=200))
def test_a_histogram_counts_every_value(values: list[float]) -> None:
    chart = histogram(values, "loss")
    counts = [int(count) for count in re.findall(r"<title>.*?: (\d+)</title>", chart)]
    assert len(counts) == BINS
    assert sum(counts) == len(values)
