"""Uniform selection without replacement."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.domain.errors import QuorumError
from foedus.domain.facts import Facts
from foedus.domain.run import CohortTable
from foedus.schedules.selectors import Request, fastest, random, round_robin, uniform

NAMES = tuple(f"c{at:04d}" for at in range(10))


def _chosen(cohort: CohortTable, seed: int, names: tuple[str, ...] = NAMES) -> tuple[str, ...]:
    return uniform(cohort)(names, torch.Generator().manual_seed(seed))


def test_a_cohort_is_distinct_sorted_and_of_the_size_asked() -> None:
    cohort = _chosen(CohortTable(size=4), 1)
    assert len(set(cohort)) == 4
    assert list(cohort) == sorted(cohort)


class Counted(Sequence[str]):
    """A large population that counts how many of its names were made."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: int) -> str:  # type: ignore[override]
        self.made += 1
        return f"c{at:09d}"


@pytest.mark.parametrize("size", [1, 100, 6000])
def test_of_a_large_population_only_the_names_asked_for_are_made(size: int) -> None:
    many = Counted(10**8 if size < 6000 else 12_001)
    cohort = uniform(CohortTable(size=size))(many, torch.Generator().manual_seed(3))
    assert len(set(cohort)) == len(cohort) == size == many.made
    assert list(cohort) == sorted(cohort)
    assert cohort == uniform(CohortTable(size=size))(many, torch.Generator().manual_seed(3))


def test_a_draw_from_many_is_uniform() -> None:
    many, count = Counted(20_000), [0] * 20
    for seed in range(40):
        for name in uniform(CohortTable(size=500))(many, torch.Generator().manual_seed(seed)):
            count[int(name[1:]) // 1000] += 1
    assert sum(count) == 20_000
    assert all(850 < found < 1150 for found in count)


def test_a_fraction_is_rounded_and_at_least_one() -> None:
    assert len(_chosen(CohortTable(fraction=0.25), 1)) == 2
    assert len(_chosen(CohortTable(fraction=0.01), 1)) == 1
    assert _chosen(CohortTable(fraction=1.0), 1) == NAMES


def test_everybody_is_chosen_about_as_often() -> None:
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(2000):
        for name in _chosen(CohortTable(size=3), seed):
            counts[name] += 1
    assert all(500 < count < 700 for count in counts.values())


def test_a_cohort_larger_than_the_population_is_refused() -> None:
    with pytest.raises(QuorumError) as refusal:
        _chosen(CohortTable(size=11), 1)
    assert refusal.value.code == "population_too_small"


def test_over_selection_asks_so_many_times_more_up_to_everybody() -> None:
    assert len(_chosen(CohortTable(size=4, over_selection=1.3), 1)) == 6
    assert len(_chosen(CohortTable(size=9, over_selection=1.3), 1)) == 10


def test_ten_times_one_point_one_is_eleven() -> None:
    names = tuple(f"c{at:04}" for at in range(50))
    assert len(uniform(CohortTable(size=10, over_selection=1.1))(names, torch.Generator().manual_seed(0))) == 11


def test_drawing_at_random_with_nobody_busy_is_what_the_synchronous_cohort_is() -> None:
    for count in (10, 20_000):
        names = tuple(f"c{at:05}" for at in range(count))
        request = Request(4, (), "", torch.Generator().manual_seed(3))
        assert random(names, request) == uniform(CohortTable(size=4))(names, torch.Generator().manual_seed(3))


@given(st.sets(st.sampled_from("abcdefgh")), st.integers(1, 9), st.sampled_from("\0adhz"), st.integers(0, 99))
def test_drawers_choose_distinct_idle_clients_as_many_as_there_are(
    busy: set[str], count: int, after: str, seed: int
) -> None:
    for drawer in (random, round_robin):
        chosen = drawer(tuple("abcdefgh"), Request(count, busy, after, torch.Generator().manual_seed(seed)))
        assert len(set(chosen)) == len(chosen) == min(count, 8 - len(busy))
        assert not set(chosen) & busy


def test_round_robin_comes_to_everybody_in_turn() -> None:
    after, turns = "", ""
    for _ in range(7):
        (after,) = round_robin(tuple("abc"), Request(1, (), after, torch.Generator()))
        turns += after
    assert turns == "abcabca"


def test_the_fastest_are_asked_first_and_who_reported_nothing_last() -> None:
    names = tuple("abcdef")
    facts = {"b": Facts(speed=5.0), "d": Facts(speed=50.0), "e": Facts(speed=5.0), "f": Facts(examples=9)}
    rng = torch.Generator().manual_seed(0)
    assert [fastest(CohortTable(size=size))(names, rng, facts) for size in (1, 2, 3)] == [
        ("d",),
        ("b", "d"),
        ("b", "d", "e"),
    ]
    assert fastest(CohortTable(size=2, over_selection=2.0))(names, rng, facts) == ("a", "b", "d", "e")
    assert fastest(CohortTable(size=2))(names, rng) == ("a", "b")
