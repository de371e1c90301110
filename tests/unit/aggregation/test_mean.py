"""The weighted mean is a monoid, exact where it must be, and keeps dtypes."""

from __future__ import annotations

import copy
from itertools import permutations

import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.aggregation.aggregator import Sums
from foedus.aggregation.mean import merge, weighted_mean
from foedus.domain.tree import Parts

KINDS = {"parameters": {"w": torch.float32}, "buffers": {"n": torch.int64, "seen": torch.bool}}
mean = weighted_mean(dict.fromkeys(KINDS, "examples"), KINDS)


def _update(value: int) -> Parts:
    return {
        "parameters": {"w": torch.tensor([float(value), -float(value)])},
        "buffers": {"n": torch.tensor(value), "seen": torch.tensor(value % 2 == 1)},
    }


def _fold(pairs: list[tuple[int, int]]) -> Sums:
    sums = mean.zero()
    for value, weight in pairs:
        sums = mean.add(sums, _update(value), {"examples": float(weight)})
    return sums


def _same(first: Sums, second: Sums) -> bool:
    flat = [{(p, n): t.tolist() for p, ts in sums.tensors.items() for n, t in ts.items()} for sums in (first, second)]
    return flat[0] == flat[1] and first.weights == second.weights and first.count == second.count


pairs = st.lists(st.tuples(st.integers(-100, 100), st.integers(1, 50)), max_size=6)


@given(pairs, pairs, pairs)
def test_merge_is_associative(a: list[tuple[int, int]], b: list[tuple[int, int]], c: list[tuple[int, int]]) -> None:
    left = merge(merge(_fold(a), _fold(b)), _fold(c))
    right = merge(_fold(a), merge(_fold(b), _fold(c)))
    assert _same(left, right)
    assert _same(left, _fold(a + b + c))


@given(pairs)
def test_zero_is_the_identity(a: list[tuple[int, int]]) -> None:
    assert _same(merge(mean.zero(), _fold(a)), _fold(a))
    assert _same(merge(_fold(a), mean.zero()), _fold(a))


def test_merge_does_not_take_the_others_memory() -> None:
    other = _fold([(3, 1)])
    before = copy.deepcopy(other)
    merge(merge(mean.zero(), other), _fold([(5, 1)]))
    assert _same(other, before)


def test_sizes_one_and_three_with_zero_and_four_give_exactly_three() -> None:
    """Behaviour D2, with the rule for integers: 3 examples of 4 against 1 of 0."""
    result = mean.finish(_fold([(0, 1), (4, 3)]))
    assert result["parameters"]["w"].tolist() == [3.0, -3.0]
    assert result["buffers"]["n"].item() == 3


def test_h11_weighted_and_unweighted_means_are_what_they_are_on_paper() -> None:
    """Of 1, 2 and 6 with 10, 30 and 60 examples: (10 + 60 + 360) / 100, and (1 + 2 + 6) / 3, in any order."""
    given = ((1.0, 10.0), (2.0, 30.0), (6.0, 60.0))
    for weight, expected in (("examples", 4.3), ("one", 3.0)):
        rule = weighted_mean({"p": weight}, {"p": {"w": torch.float64}})
        for order in permutations(given):
            sums = rule.zero()
            for value, examples in order:
                update = {"p": {"w": torch.tensor([value], dtype=torch.float64)}}
                sums = rule.add(sums, update, {"examples": examples, "one": 1.0})
            assert rule.finish(sums)["p"]["w"].tolist() == [expected]


def test_integer_buffers_keep_their_dtype_and_are_rounded_half_to_even() -> None:
    halves = mean.finish(_fold([(2, 1), (3, 1)]))
    assert halves["buffers"]["n"].item() == 2
    assert halves["buffers"]["n"].dtype == torch.int64
    assert halves["buffers"]["seen"].dtype == torch.bool
    assert mean.finish(_fold([(1, 3), (2, 1)]))["buffers"]["seen"].item() is True


def test_large_integers_are_not_distorted_by_single_precision() -> None:
    assert mean.finish(_fold([(2**40 + 1, 5), (2**40 + 1, 7)]))["buffers"]["n"].item() == 2**40 + 1


def test_half_precision_is_summed_in_single() -> None:
    half = weighted_mean({"p": "examples"}, {"p": {"w": torch.float16}})
    sums = half.zero()
    for _ in range(3000):
        sums = half.add(sums, {"p": {"w": torch.ones(1, dtype=torch.float16)}}, {"examples": 1.0})
    result = half.finish(sums)["p"]["w"]
    assert result.dtype == torch.float16
    assert result.item() == 1.0
