"""Columns are checked, prepared and split; the same seed gives the same parts everywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foedus.data.dataset import Columns, Examples, check_columns, prepare_client, split
from foedus.domain.errors import DataError, FoedusError


def _examples(n: int) -> Examples:
    return Examples(torch.arange(float(n)), torch.arange(n))


@given(st.integers(1, 60), st.floats(0, 0.99), st.floats(0, 0.99), st.integers(0, 5))
def test_a_split_is_disjoint_covers_everything_and_never_leaves_nothing_to_train_on(
    n: int, ratio: float, validation: float, seed: int
) -> None:
    data = split(_examples(n), ratio, validation, seed, "c")
    parts = (data.train, data.test, data.validation)
    assert sorted(target for part in parts for target in part.targets.tolist()) == list(range(n))
    assert len(data.train) >= 1
    assert len(data.test) == min(int(ratio * n), n - 1)
    assert len(data.validation) == min(int(validation * n), n - 1 - len(data.test))
    again = split(_examples(n), ratio, validation, seed, "c")
    assert torch.equal(again.train.targets, data.train.targets)
    without = split(_examples(n), ratio, 0.0, seed, "c")
    assert torch.equal(without.test.targets, data.test.targets)


def test_inputs_and_targets_may_be_several_by_name() -> None:
    columns = {"a": torch.arange(10.0), "b": torch.arange(10), "label": torch.arange(10)}
    data = prepare_client("c", columns, lambda c: ({"x": c["a"], "y": c["b"]}, {"label": c["label"]}), 0.3, 1)
    assert (len(data.train), len(data.test)) == (7, 3)
    assert list(data.train.tensors) == ["inputs.x", "inputs.y", "targets.label"]
    assert all(
        torch.equal(tensor.long(), data.train.tensors["targets.label"]) for tensor in data.train.tensors.values()
    )
    assert len(data.train.take(slice(2, 5))) == 3


NAN = torch.tensor([[1.0], [float("nan")]])
BAD_COLUMNS: dict[str, tuple[Columns, str]] = {
    "no columns": ({}, "dataset_empty"),
    "no rows": ({"x": torch.zeros(0, 3)}, "dataset_empty"),
    "a scalar": ({"x": torch.tensor(1.0)}, "dataset_empty"),
    "ragged": ({"x": torch.zeros(2), "y": torch.zeros(3)}, "dataset_ragged"),
    "NaN": ({"x": NAN}, "dataset_not_finite"),
    "infinity": ({"x": torch.tensor([1.0, float("inf")])}, "dataset_not_finite"),
}


@pytest.mark.parametrize(("columns", "code"), BAD_COLUMNS.values(), ids=BAD_COLUMNS.keys())
def test_columns_that_nobody_can_learn_from_are_refused(columns: Columns, code: str) -> None:
    with pytest.raises(DataError) as refusal:
        check_columns(columns)
    assert refusal.value.code == code


def test_what_is_not_finite_is_told_by_its_column() -> None:
    with pytest.raises(DataError, match="`age`"):
        check_columns({"label": torch.zeros(2), "age": NAN})


GOOD = {"x": torch.arange(10.0).reshape(5, 2), "y": torch.tensor([0, 1, 0, 1, 0])}


def test_a_client_is_prepared_by_the_plan() -> None:
    data = prepare_client("c", GOOD, lambda columns: (columns["x"] * 2, columns["y"]), 0.4, 1)
    assert (len(data.train), len(data.test)) == (3, 2)
    together = torch.cat([data.train.inputs, data.test.inputs])
    assert sorted(together[:, 0].tolist()) == [0.0, 4.0, 8.0, 12.0, 16.0]


def test_nothing_is_made_of_columns_without_rows() -> None:
    data = prepare_client("c", {"x": torch.empty(0, 2)}, _raise, 0.2, 1)
    assert (len(data.train), len(data.test), len(data.validation)) == (0, 0, 0)


def _raise(columns: Columns) -> tuple[Tensor, Tensor]:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda c: (c["pixels"], c["y"]), "column_missing"),
        (_raise, "prepare_failed"),
        (lambda c: c["x"], "prepare_refused"),
        (lambda c: (c["x"], c["y"][:3]), "prepare_refused"),
        (lambda c: (c["x"], torch.tensor(1)), "prepare_refused"),
        (lambda c: (c["x"] / 0, c["y"]), "dataset_not_finite"),
        (lambda c: (c["x"][:0], c["y"][:0]), "dataset_empty"),
    ],
)
def test_a_preparation_that_does_not_fit_is_refused(prepare: object, code: str) -> None:
    with pytest.raises(FoedusError) as refusal:
        prepare_client("c", GOOD, prepare, 0.2, 1)  # type: ignore[arg-type]
    assert refusal.value.code == code
    if code == "column_missing":
        assert "'pixels'" in str(refusal.value)
        assert "x, y" in str(refusal.value)


def test_a_table_of_the_plans_own_that_lacks_a_value_is_no_missing_column() -> None:
    with pytest.raises(FoedusError) as refusal:
        prepare_client("c", GOOD, lambda columns: {}[float(columns["x"][4, 1])], 0.2, 1)
    assert refusal.value.code == "prepare_failed"


def test_a_split_that_the_data_bring_stands_and_the_plan_does_not_see_it() -> None:
    given = {**GOOD, "foedus_part": torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0])}

    def prepare(columns: Columns) -> tuple[Tensor, Tensor]:
        assert set(columns) == {"x", "y"}
        return columns["x"], columns["y"]

    for test, seed in ((0.0, 1), (0.4, 2)):
        data = prepare_client("c", given, prepare, test, seed)
        parts = [part.inputs[:, 0].tolist() for part in (data.train, data.test, data.validation)]
        assert parts == [[2.0, 4.0, 8.0], [0.0], [6.0]]


@pytest.mark.parametrize(
    "part", [[1, 1, 1, 2, 1], [0, 0, 0, 0, 3], [0, 0, 0, 0, -1], [[0], [0], [0], [0], [1]]], ids=str
)
def test_a_split_that_is_none_is_refused(part: list[object]) -> None:
    with pytest.raises(DataError) as refusal:
        prepare_client("c", {**GOOD, "foedus_part": torch.tensor(part)}, lambda c: (c["x"], c["y"]), 0.2, 1)
    assert refusal.value.code == "split_refused"


def test_a_plan_keeps_the_rows_that_a_split_speaks_of() -> None:
    given = {**GOOD, "foedus_part": torch.tensor([0, 0, 0, 0, 1])}
    with pytest.raises(DataError) as refusal:
        prepare_client("c", given, lambda c: (c["x"][1:], c["y"][1:]), 0.2, 1)
    assert refusal.value.code == "split_refused"
