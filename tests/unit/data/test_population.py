"""Populations cost what is asked of them: names and columns are made on demand."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.data.dataset import Columns
from foedus.data.population import Division, Generated, Numbered, OnDemand, divided, division_of, federation


@given(st.integers(0, 300))
def test_numbered_names_are_a_sorted_sequence(count: int) -> None:
    names = Numbered(count)
    assert list(names) == [f"c{at:04d}" for at in range(count)] == sorted(names)
    assert len(names) == count
    assert names[1:7:2] == tuple(list(names)[1:7:2])
    assert all(names.index(name) == at and name in names for at, name in enumerate(names))


@pytest.mark.parametrize(("count", "last"), [(10_000, "c9999"), (10_001, "c10000"), (10**6, "c999999")])
def test_names_are_as_wide_as_their_order_needs(count: int, last: str) -> None:
    names = Numbered(count)
    assert names[-1] == names[count - 1] == last
    assert len({len(name) for name in (names[0], names[9], last)}) == 1
    assert sys.getsizeof(names) < 1000


@pytest.mark.parametrize("name", ["c0003", "c-001", "c00000", "d0000", "c١١١١", "", 3])
def test_no_other_name_is_in_it(name: object) -> None:
    assert name not in Numbered(3)
    with pytest.raises(ValueError):
        Numbered(3).index(name)


@pytest.mark.parametrize("at", [3, -4])
def test_there_is_no_client_beyond_the_last(at: int) -> None:
    with pytest.raises(IndexError):
        Numbered(3)[at]
    assert "c0001" not in Numbered(3)[:1]


def test_clients_are_read_when_they_are_asked_for() -> None:
    asked: list[int] = []

    def read(place: int) -> Columns:
        asked.append(place)
        return {"x": torch.tensor([place])}

    many = federation(Generated(10**6, read))
    assert (len(many.names), len(many.clients)) == (10**6, 10**6)
    assert many.clients["c000017"]["x"].tolist() == [17]
    assert asked == [17]
    with pytest.raises(KeyError):
        many.clients["c0017"]


def test_a_mapping_and_a_list_are_federations_too() -> None:
    one, two = {"x": torch.zeros(1)}, {"x": torch.ones(1)}
    named = federation({"b": one, "a": two}, held_out=one)
    assert (named.names, named.held_out) == (("a", "b"), one)
    listed = federation([one, two])
    assert listed.names == Numbered(2)
    assert listed.clients["c0001"] is two


def test_clients_with_names_of_their_own_are_found_by_them() -> None:
    clients = OnDemand(("cleveland", "hungary"), lambda place: {"x": torch.tensor([place])})
    assert clients["hungary"]["x"].tolist() == [1]
    assert "cleveland" in clients
    assert "va" not in clients
    assert list(clients) == ["cleveland", "hungary"]


def test_a_division_gathers_each_clients_rows_in_their_order() -> None:
    division = division_of([torch.tensor([4, 1]), torch.tensor([], dtype=torch.int64), torch.tensor([0, 3, 2])])
    assert {name: rows.tolist() for name, rows in division.items()} == {
        "c0000": [1, 4],
        "c0001": [],
        "c0002": [0, 2, 3],
    }
    assert division.sizes.tolist() == [2, 0, 3]
    clients = divided({"x": torch.arange(5) * 10}, division)
    assert clients["c0000"]["x"].tolist() == [10, 40]
    assert clients["c0001"]["x"].tolist() == []
    assert len(Division(torch.empty(0), torch.tensor([0]))) == 0
