"""Uniform selection without replacement."""

from __future__ import annotations

import pytest
import torch

from foedus.domain.errors import QuorumError
from foedus.domain.run import CohortTable
from foedus.schedules.selectors import uniform

NAMES = tuple(f"c{at:04d}" for at in range(10))


def _chosen(cohort: CohortTable, seed: int, names: tuple[str, ...] = NAMES) -> tuple[str, ...]:
    return uniform(cohort)(names, torch.Generator().manual_seed(seed))


def test_a_cohort_is_distinct_sorted_and_of_the_size_asked() -> None:
    cohort = _chosen(CohortTable(size=4), 1)
    assert len(set(cohort)) == 4
    assert list(cohort) == sorted(cohort)


def test_it_does_not_depend_on_the_order_of_the_population() -> None:
    assert _chosen(CohortTable(size=4), 1) == _chosen(CohortTable(size=4), 1, tuple(reversed(NAMES)))


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
