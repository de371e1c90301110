"""Data sets of Hugging Face's library, from a folder that it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.data.catalogue import load
from foedus.data.population import Federation
from foedus.data.sources.source import Pool
from foedus.domain.errors import DataError
from foedus.domain.run import DataTable

datasets = pytest.importorskip("datasets", reason="the extra `huggingface` is not installed (it is large)")


def _write(folder: Path) -> None:
    rows = {"user": ["b", "a", "b"], "x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "label": [1, 0, 1]}
    train = datasets.Dataset.from_dict(rows).cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    datasets.DatasetDict({"train": train, "test": train.select([0])}).save_to_disk(str(folder))


def _load(folder: Path, **keys: Any) -> Pool | Federation:
    return load(DataTable.model_validate({"name": "huggingface", "folder": str(folder), **keys}))


def test_a_saved_data_set_is_one_pool_with_a_test_part(tmp_path: Path) -> None:
    _write(tmp_path)
    found = _load(tmp_path, held_out="test", options={"columns": ["x", "label"]})
    assert isinstance(found, Pool)
    assert found.test is not None
    assert found.columns["x"].tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert (found.columns["label"].tolist(), found.test["label"].tolist()) == ([1, 0, 1], [1])
    with pytest.raises(DataError) as refusal:
        _load(tmp_path)
    assert refusal.value.code == "dataset_not_numeric"


def test_a_column_s_values_are_the_clients(tmp_path: Path) -> None:
    _write(tmp_path)
    found = _load(tmp_path, client="user")
    assert isinstance(found, Federation)
    assert tuple(found.names) == ("a", "b")
    assert found.clients["b"]["x"].tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert found.clients["a"]["label"].tolist() == [0]


def test_images_are_decoded(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rows = {"image": [image.new("RGB", (4, 3), colour) for colour in ("red", "blue")], "label": [0, 1]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path))
    found = _load(tmp_path)
    assert isinstance(found, Pool)
    assert (found.columns["image"].shape, found.columns["image"].dtype) == ((2, 3, 3, 4), torch.uint8)
    assert found.columns["image"][0, :, 0, 0].tolist() == [255, 0, 0]


def test_a_folder_or_a_split_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        _load(tmp_path)
    assert refusal.value.code == "dataset_unreadable"
    _write(tmp_path / "saved")
    with pytest.raises(DataError, match="there are: test, train") as refusal:
        _load(tmp_path / "saved", options={"split": "dev"})
    assert refusal.value.code == "dataset_missing"
