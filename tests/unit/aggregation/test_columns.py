"""Rules by columns: exact by hand, unmoved by liars, the same however they are folded, and kept dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.aggregation.aggregator import Aggregator, Sums
from foedus.aggregation.columns import by_columns
from foedus.aggregation.robust import median, trimmed, trimmed_mean
from foedus.domain.errors import ConfigError
from foedus.domain.tree import same
from tests.plans import prepared

KINDS = {"p": {"w": torch.float32, "h": torch.bfloat16}, "b": {"n": torch.int64, "seen": torch.bool}}
RULES = {"median": median, "trimmed": trimmed_mean(0.2)}


def update(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "p": {"w": torch.tensor([value, -value]), "h": torch.tensor([value], dtype=torch.bfloat16)},
        "b": {"n": torch.tensor(int(value)), "seen": torch.tensor(value > 0)},
    }


def folded(rule: Aggregator, values: list[float]) -> Sums:
    sums = rule.zero()
    for value in values:
        sums = rule.add(sums, update(value), {})
    return sums


def test_the_median_by_hand() -> None:
    rule = by_columns(median, KINDS)
    odd = rule.finish(folded(rule, [3.0, -1.0, 100.0]))
    assert odd["p"]["w"].tolist() == [3.0, -3.0]
    assert odd["b"]["n"].tolist() == 3
    even = rule.finish(folded(rule, [4.0, -1.0, 100.0, 1.0]))
    assert even["p"]["w"].tolist() == [2.5, -2.5]
    assert even["b"]["n"].tolist() == 2, "2.5 is rounded half to even"
    assert {part: {n: t.dtype for n, t in tensors.items()} for part, tensors in even.items()} == KINDS


@pytest.mark.parametrize("trim", [0.0, 0.1, 0.25, 0.49])
@pytest.mark.parametrize("count", [1, 2, 5, 10, 23])
def test_the_trimmed_mean_is_its_definition(trim: float, count: int) -> None:
    rows = torch.randn(count, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    cut = trimmed(trim, count)
    assert cut == min(int(trim * count + 1e-9), (count - 1) // 2)
    expected = np.sort(rows.numpy(), axis=0)[cut : count - cut].mean(axis=0)
    np.testing.assert_allclose(trimmed_mean(trim)(rows).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("rule", [median, trimmed_mean(0.2)], ids=["median", "trimmed mean"])
def test_a_fifth_of_liars_stays_between_the_honest(rule: Any) -> None:
    honest = torch.randn(8, 50, generator=torch.Generator().manual_seed(1))
    lies = torch.full((2, 50), 1e9)
    result = rule(torch.cat([honest, lies]))
    assert (result <= honest.amax(0)).all()
    assert (result >= honest.amin(0)).all()


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=30), st.data())
def test_blocks_may_be_cut_anywhere(values: list[int], data: st.DataObject) -> None:
    for reduce in RULES.values():
        rule = by_columns(reduce, KINDS)
        whole = rule.finish(folded(rule, [float(value) for value in values]))
        sums, left = rule.zero(), [float(value) for value in values]
        while left:
            size = data.draw(st.integers(1, len(left)))
            sums, left = rule.merge(sums, folded(rule, left[:size])), left[size:]
        assert sums.count == len(values)
        cut = rule.finish(sums)
        assert all(same(cut[part], whole[part]) for part in whole)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_window_of_the_columns_has_the_bits_of_the_whole(rule: Any) -> None:
    rows = torch.randn(37, 1000, generator=torch.Generator().manual_seed(2))
    rows[::3] = rows[::3].abs().neg_().floor_().add_(0.0)  # ties, and zeros of either sign
    whole = rule(rows)
    for start, stop in ((0, 64), (64, 128), (128, 1000), (999, 1000)):
        assert same({"w": rule(rows[:, start:stop])}, {"w": whole[start:stop]})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule": {"name": "buffered", "buffer": 2}}, "schedule `buffered`"),
        ({"schedule": {"name": "timed", "every": 5.0}}, "schedule `timed`"),
        ({"schedule": {"name": "cyclic"}}, "schedule `cyclic`"),
    ],
)
@pytest.mark.parametrize("rule", [{"name": "median"}, {"name": "trimmed_mean", "trim": 0.3}], ids=lambda r: r["name"])
def test_by_columns_and_staleness_do_not_go_together(
    rule: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    strategy = {"name": "fedavg", "local": {"lr": 0.1}, "aggregator": rule}
    with pytest.raises(ConfigError) as refusal:
        prepared(tmp_path, strategy=strategy, **changes)
    assert (refusal.value.code, said in str(refusal.value)) == ("strategy_unsound", True)


def test_a_trimmed_mean_that_leaves_out_nobody_is_refused(tmp_path: Path) -> None:
    def strategy(trim: float) -> dict[str, Any]:
        return {"name": "fedavg", "local": {"lr": 0.1}, "aggregator": {"name": "trimmed_mean", "trim": trim}}

    with pytest.raises(ConfigError, match="leaves out none of 4 contributions") as refusal:
        prepared(tmp_path, strategy=strategy(0.2))
    assert refusal.value.code == "strategy_unsound"
    prepared(tmp_path, strategy=strategy(0.25))
