"""Every partition gives each example to one client, the same by the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.data.by_size import apportion
from foedus.data.partition import PARTITIONERS, clients_of, partition
from foedus.data.population import Division
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.run import PartitionTable
from foedus.domain.tree import model_digest

LABELS = torch.arange(200) % 10


def _table(name: str, clients: int, **options: Any) -> PartitionTable:
    return PartitionTable.model_validate({"name": name, "clients": clients, **options})


def _divide(table: PartitionTable, seed: int, labels: torch.Tensor = LABELS) -> Division:
    return partition({"label": labels, "x": torch.arange(len(labels))}, "label", table, seed)


TABLES = {
    "iid": _table("iid", 7),
    "dirichlet": _table("dirichlet", 5, alpha=0.5),
    "dirichlet, alike": _table("dirichlet", 5, alpha=100),
    "dirichlet, balanced": _table("dirichlet", 7, alpha=0.1, balanced=True),
    "shards": _table("shards", 10),
    "labels_per_client": _table("labels_per_client", 12, labels=2),
    "lognormal": _table("lognormal", 9, sigma=2.0),
    "power_law": _table("power_law", 9, exponent=1.5),
    "dirichlet_sizes": _table("dirichlet_sizes", 9, alpha=0.3),
    "linear": _table("linear", 8),
    "square": _table("square", 8, minimum=3),
    "exponential": _table("exponential", 30),
    "by_column": PartitionTable.model_validate({"name": "by_column", "column": "label"}),
    "feature_noise": _table("feature_noise", 6),
}
tables = st.sampled_from(list(TABLES.values()))


@given(tables, st.integers(0, 20))
def test_every_example_has_exactly_one_client(table: PartitionTable, seed: int) -> None:
    parts = _divide(table, seed)
    assert list(parts) == [f"c{at:04d}" for at in range(table.clients or 10)]
    assert sorted(index for part in parts.values() for index in part.tolist()) == list(range(200))
    assert all(len(part) for part in parts.values())
    assert all(torch.equal(again, parts[name]) for name, again in _divide(table, seed).items())


def test_every_partitioner_is_tried_here() -> None:
    assert {table.name for table in TABLES.values()} | {"vertical"} == set(PARTITIONERS)


def test_a_seed_gives_the_same_split_everywhere() -> None:
    parts = _divide(_table("dirichlet", 4, alpha=0.3), 1)
    assert model_digest(parts) == "1ac399043271a30a03a1b2e56671d805107dc751c93f60be735a2518160e42e0"


SPLITS = {
    "iid": "b3b1f0b1f0bf0cbb",
    "dirichlet": "f37bcca136cb8c33",
    "dirichlet, alike": "4268838b1dcbb2d4",
    "dirichlet, balanced": "ca20fd49b02278e3",
    "shards": "05c1c2b709a1d32b",
    "labels_per_client": "10a03b3710f1ff6c",
    "lognormal": "5b5e1ebc63167172",
    "power_law": "29b78aa37b27b09b",
    "dirichlet_sizes": "e86d32d45026ff90",
    "linear": "c5b324f4a434b852",
    "square": "50c9a2c0e0326514",
    "exponential": "36d9b2d1d0e87512",
    "by_column": "1372367d6d8ab682",
    "feature_noise": "5f2bf34c619e01df",
}
"""The first letters of each split's digest by seed 1. A change here changes what everybody's runs are."""


@pytest.mark.parametrize("name", TABLES)
def test_no_partitioner_s_split_changes_unnoticed(name: str) -> None:
    assert model_digest(_divide(TABLES[name], 1)).startswith(SPLITS[name])


def test_a_small_alpha_skews_the_labels() -> None:
    def most(alpha: float) -> float:
        parts = _divide(_table("dirichlet", 5, alpha=alpha), 3)
        return max(float(torch.bincount(LABELS[part], minlength=10).max()) / len(part) for part in parts.values())

    assert most(0.1) > 0.3
    assert most(1000.0) < 0.2


def test_two_shards_hold_few_labels() -> None:
    parts = _divide(_table("shards", 10), 1)
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
        (_table("labels_per_clients", 4), "partitioner_unknown", "Did you mean `labels_per_client`?"),
        (PartitionTable(name="iid"), "config_refused", "`data.partition.clients` is missing"),
        (_table("by_column", 4, column="label"), "config_refused", "`data.partition.clients` is not a key"),
        (_table("by_column", 4), "config_refused", "`column`"),
    ],
)
def test_wrong_options_are_refused(table: PartitionTable, code: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        _divide(table, 1)
    assert refusal.value.code == code
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "table",
    [
        _table("iid", 201),
        _table("iid", 20, minimum=11),
        _table("shards", 101),
        _table("shards", 10, minimum=21),
        _table("dirichlet", 4, alpha=0.3, minimum=150),
        _table("labels_per_client", 4, labels=11),
        _table("labels_per_client", 150, labels=1, minimum=2),
        _table("linear", 20, minimum=11),
        PartitionTable.model_validate({"name": "by_column", "column": "label", "minimum": 21}),
    ],
)
def test_too_few_examples_for_the_clients_are_refused(table: PartitionTable) -> None:
    with pytest.raises(DataError) as refusal:
        _divide(table, 1)
    assert refusal.value.code == "partition_too_thin"


def test_a_minimum_of_none_allows_clients_without_examples() -> None:
    sizes = _divide(_table("iid", 250, minimum=0), 1).sizes
    assert sizes.sum() == 200
    assert sizes.min() == 0


def test_balanced_mixtures_differ_in_labels_and_not_in_size() -> None:
    parts = _divide(_table("dirichlet", 7, alpha=0.1, balanced=True), 3)
    assert set(parts.sizes.tolist()) == {28, 29}
    assert max(float(torch.bincount(LABELS[part]).max()) / len(part) for part in parts.values()) > 0.5


def test_each_client_has_as_many_labels_as_asked() -> None:
    parts = _divide(_table("labels_per_client", 12, labels=3), 1)
    assert all(len(LABELS[part].unique()) == 3 for part in parts.values())
    assert all(at % 10 in LABELS[part] for at, part in enumerate(parts.values()))


def test_a_label_that_no_client_has_is_left_out() -> None:
    parts = _divide(_table("labels_per_client", 3, labels=1), 1)
    assert [LABELS[part].unique().tolist() for part in parts.values()] == [[0], [1], [2]]
    assert int(parts.sizes.sum()) == 60


SIZES = {
    "linear": (_table("linear", 4, minimum=0), [20, 40, 60, 80]),
    "square": (_table("square", 4, minimum=0), [7, 27, 60, 106]),
    "exponential": (_table("exponential", 4, minimum=0), [6, 18, 47, 129]),
    "power law": (_table("power_law", 4, exponent=1.0, minimum=0), [96, 48, 32, 24]),
    "above the minimum": (_table("linear", 4, minimum=25), [35, 45, 55, 65]),
}


@pytest.mark.parametrize(("table", "sizes"), SIZES.values(), ids=SIZES.keys())
def test_sizes_go_with_their_law(table: PartitionTable, sizes: list[int]) -> None:
    assert _divide(table, 1).sizes.tolist() == sizes


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30), st.integers(0, 10_000))
def test_apportioned_sizes_sum_up_and_are_off_by_less_than_one(weights: list[float], total: int) -> None:
    exact = np.array(weights) / sum(weights) * total
    sizes = apportion(np.array(weights), total)
    assert sizes.sum() == total
    assert np.abs(sizes - exact).max() < 1 + 1e-6


def test_a_column_s_values_are_the_clients() -> None:
    site = torch.tensor([7.0, 3.0, 7.0, 3.0, 3.0])
    table = PartitionTable.model_validate({"name": "by_column", "column": "site"})
    parts = partition({"site": site}, "label", table, 1)
    assert [part.tolist() for part in parts.values()] == [[1, 3, 4], [0, 2]]


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"x": torch.arange(9)}, "column_missing"),
        ({"label": torch.arange(9) / 2}, "labels_not_classes"),
        ({"label": torch.full((9,), float("nan"))}, "labels_not_classes"),
        ({"label": torch.zeros(9, 2)}, "labels_not_classes"),
    ],
)
def test_labels_that_are_no_classes_are_refused_where_they_are_looked_at(
    columns: dict[str, torch.Tensor], code: str
) -> None:
    with pytest.raises(DataError) as refusal:
        partition(columns, "label", _table("shards", 2), 1)
    assert refusal.value.code == code
    assert partition(columns, "label", _table("iid", 2), 1).sizes.tolist() == [5, 4]


def test_another_column_may_be_the_label() -> None:
    columns = {"disease": LABELS.float()}
    assert partition(columns, "disease", _table("shards", 10), 1).sizes.tolist() == [20] * 10


def test_noise_grows_with_the_client_and_follows_from_the_seed() -> None:
    columns = {"x": torch.zeros(4000, 5), "label": torch.zeros(4000)}
    noisy = clients_of(columns, "label", _table("feature_noise", 4, sigma=4.0), 1).clients
    assert [part["x"].var().item() for part in noisy.values()] == pytest.approx([1, 2, 3, 4], rel=0.1)
    assert all(bool((part["label"] == 0).all()) for part in noisy.values())
    again = clients_of(columns, "label", _table("feature_noise", 4, sigma=4.0), 1).clients
    assert all(torch.equal(again[name]["x"], part["x"]) for name, part in noisy.items())
    clean = clients_of(columns, "label", _table("feature_noise", 4, sigma=0.0), 1).clients
    assert not clean["c0003"]["x"].any()


def test_a_vertical_split_gives_everybody_all_rows_of_some_columns() -> None:
    columns = {"features": torch.arange(40).reshape(8, 5), "label": torch.arange(8)}
    split = clients_of(columns, "label", _table("vertical", 2), 1)
    guest, host = split.clients.values()
    assert split.vertical
    assert torch.equal(torch.cat([guest["features"], host["features"]], 1), columns["features"])
    assert guest["row"].tolist() == host["row"].tolist() == list(range(8))
    assert (sorted(guest), sorted(host)) == (["features", "label", "row"], ["features", "row"])
    both = clients_of(columns, "label", _table("vertical", 2, label="all"), 1).clients
    assert all("label" in part for part in both.values())


def test_a_vertical_split_of_named_columns_deals_them_in_turn() -> None:
    columns = {name: torch.arange(8) for name in ("age", "sex", "chol", "label")}
    parts = clients_of(columns, "label", _table("vertical", 2), 1).clients
    assert [list(part) for part in parts.values()] == [["row", "age", "sex", "label"], ["row", "chol"]]
    with pytest.raises(DataError) as refusal:
        clients_of(columns, "label", _table("vertical", 4), 1)
    assert refusal.value.code == "partition_too_thin"
