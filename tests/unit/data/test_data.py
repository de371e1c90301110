"""Columns are checked, prepared, split and batched; the same seed gives the same parts everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foedus.data.batching import batches
from foedus.data.dataset import Columns, Examples, check_columns, prepare_client, split
from foedus.data.files import read_columns, write_columns
from foedus.domain.errors import ConfigError, DataError, FoedusError
from foedus.domain.tree import same


def _examples(n: int) -> Examples:
    return Examples(torch.arange(float(n)), torch.arange(n))


@given(st.integers(1, 60), st.floats(0, 0.99), st.integers(0, 5))
def test_a_split_is_disjoint_covers_everything_and_never_leaves_nothing_to_train_on(
    n: int, ratio: float, seed: int
) -> None:
    train, test = split(_examples(n), ratio, seed, "c")
    assert sorted([*train.targets.tolist(), *test.targets.tolist()]) == list(range(n))
    assert len(test) == min(int(ratio * n), n - 1)
    again = split(_examples(n), ratio, seed, "c")
    assert torch.equal(again[0].targets, train.targets)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3))
def test_batches_are_a_permutation_cut_in_order(n: int, size: int, epoch: int) -> None:
    cut = list(batches(n, size, 1, "c", epoch))
    assert sorted(torch.cat(cut).tolist()) == list(range(n))
    assert [len(batch) for batch in cut[:-1]] == [size] * (len(cut) - 1)
    assert torch.equal(torch.cat(cut), torch.cat(list(batches(n, size, 1, "c", epoch))))


def test_epochs_and_clients_have_orders_of_their_own() -> None:
    orders = {tuple(torch.cat(list(batches(30, 7, 1, c, e))).tolist()) for c in "ab" for e in (0, 1)}
    assert len(orders) == 4


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


GOOD = {"x": torch.arange(10.0).reshape(5, 2), "y": torch.tensor([0, 1, 0, 1, 0])}


def test_a_client_is_prepared_by_the_plan() -> None:
    data = prepare_client("c", GOOD, lambda columns: (columns["x"] * 2, columns["y"]), 0.4, 1)
    assert (len(data.train), len(data.test)) == (3, 2)
    together = torch.cat([data.train.inputs, data.test.inputs])
    assert sorted(together[:, 0].tolist()) == [0.0, 4.0, 8.0, 12.0, 16.0]


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
    ],
)
def test_a_preparation_that_does_not_fit_is_refused(prepare: object, code: str) -> None:
    with pytest.raises(FoedusError) as refusal:
        prepare_client("c", GOOD, prepare, 0.2, 1)  # type: ignore[arg-type]
    assert refusal.value.code == code
    if code == "column_missing":
        assert "'pixels'" in str(refusal.value)
        assert "x, y" in str(refusal.value)


def test_npz_keeps_every_bit_and_dtype(tmp_path: Path) -> None:
    columns = {"a": torch.randn(4, 3), "b": torch.arange(4), "file": torch.tensor([True, False, True, True])}
    write_columns(tmp_path / "c0000.npz", columns)
    assert same(read_columns(tmp_path / "c0000.npz"), columns)


def test_csv_is_a_table_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,label\n61.5,1\n40,0\n")
    columns = read_columns(tmp_path / "t.csv")
    assert columns["age"].tolist() == [61.5, 40.0]
    assert columns["label"].dtype == torch.float32


def test_an_empty_cell_is_a_missing_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,label\n,1\n40,0\n")
    with pytest.raises(DataError, match="age"):
        check_columns(read_columns(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("t.csv", b"a,b\n1,secret\n", "dataset_not_numeric"),
        ("t.csv", b"a,b\n1\n", "dataset_not_numeric"),
        ("t.csv", b"\xff\xfe", "dataset_unreadable"),
        ("t.npz", b"not a zip", "dataset_unreadable"),
        ("t.safetensors", b"\x80\x04K\x01.", "dataset_unreadable"),
        ("t.pkl", b"\x80\x04K\x01.", "dataset_unreadable"),
        ("missing.npz", None, "dataset_unreadable"),
    ],
)
def test_a_file_that_is_no_dataset_is_refused_without_its_values(
    name: str, content: bytes | None, code: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_columns(tmp_path / name)
    assert refusal.value.code == code
    assert "secret" not in str(refusal.value)


def test_a_pickled_array_in_an_npz_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError) as refusal:
        read_columns(tmp_path / "t.npz")
    assert refusal.value.code == "dataset_unreadable"


def test_unknown_is_told_with_the_nearest(tmp_path: Path) -> None:
    from_catalogue = pytest.importorskip("foedus.data.catalogue")
    with pytest.raises(ConfigError, match="Did you mean `digits`"):
        from_catalogue.load("digit", None)
