"""Every partition gives each example to one client, the same by the same seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.data.partition import partition
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.run import PartitionTable
from foedus.domain.tree import model_digest

LABELS = torch.arange(200) % 10


def _table(name: str, clients: int, **options: Any) -> PartitionTable:
    return PartitionTable.model_validate({"name": name, "clients": clients, **options})


tables = st.sampled_from(
    [_table("iid", 7), _table("dirichlet", 5, alpha=0.5), _table("dirichlet", 5, alpha=100), _table("shards", 10)]
)


@given(tables, st.integers(0, 20))
def test_every_example_has_exactly_one_client(table: PartitionTable, seed: int) -> None:
    parts = partition(LABELS, table, seed)
    assert list(parts) == [f"c{at:04d}" for at in range(table.clients)]
    assert sorted(index for part in parts.values() for index in part.tolist()) == list(range(200))
    assert all(len(part) for part in parts.values())
    assert all(torch.equal(again, parts[name]) for name, again in partition(LABELS, table, seed).items())


def test_a_seed_gives_the_same_split_everywhere() -> None:
    parts = partition(LABELS, _table("dirichlet", 4, alpha=0.3), 1)
    assert model_digest(parts) == "1ac399043271a30a03a1b2e56671d805107dc751c93f60be735a2518160e42e0"


def test_a_small_alpha_skews_the_labels() -> None:
    def most(alpha: float) -> float:
        parts = partition(LABELS, _table("dirichlet", 5, alpha=alpha), 3)
        return max(float(torch.bincount(LABELS[part], minlength=10).max()) / len(part) for part in parts.values())

    assert most(0.1) > 0.3
    assert most(1000.0) < 0.2


def test_two_shards_hold_few_labels() -> None:
    parts = partition(LABELS, _table("shards", 10), 1)
    assert all(len(LABELS[part].unique()) <= 3 for part in parts.values())
    assert {len(part) for part in parts.values()} == {20}


@pytest.mark.parametrize(
    ("table", "code", "said"),
    [
        (_table("dirichlett", 4), "partitioner_unknown", "Did you mean `dirichlet`?"),
        (_table("dirichlet", 4), "config_refused", "`alpha`"),
        (_table("dirichlet", 4, alpha=-1.0), "config_refused", "`alpha`"),
        (_table("dirichlet", 4, alhpa=1.0, alpha=1.0), "config_refused", "Did you mean `alpha`?"),
        (_table("iid", 4, alpha=1.0), "config_refused", "`alpha`"),
    ],
)
def test_wrong_options_are_refused(table: PartitionTable, code: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        partition(LABELS, table, 1)
    assert refusal.value.code == code
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "table", [_table("iid", 201), _table("shards", 101), _table("dirichlet", 4, alpha=0.3, minimum=150)]
)
def test_too_few_examples_for_the_clients_are_refused(table: PartitionTable) -> None:
    with pytest.raises(DataError) as refusal:
        partition(LABELS, table, 1)
    assert refusal.value.code == "partition_too_thin"
