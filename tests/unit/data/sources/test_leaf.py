"""LEAF's JSON: users are clients, the test folder is the test part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.data.catalogue import load
from foedus.data.population import Federation
from foedus.domain.errors import DataError
from foedus.domain.run import DataTable

USERS = {"f001": ([[0.5, 1.0], [0.0, 0.25]], [3, 1]), "f000": ([[1.0, 1.0]], [2]), "empty": ([], [])}


def _write(folder: Path, users: dict[str, Any], part: str = "train") -> None:
    data = {user: {"x": x, "y": y} for user, (x, y) in users.items()}
    content = {"users": list(users), "num_samples": [len(x) for x, _ in users.values()], "user_data": data}
    (folder / part).mkdir(exist_ok=True)
    (folder / part / "all_data_0.json").write_text(json.dumps(content))


def _load(folder: Path, **keys: object) -> Federation:
    found = load(DataTable.model_validate({"name": "leaf", "folder": str(folder), **keys}))
    assert isinstance(found, Federation)
    return found


def test_users_are_clients(tmp_path: Path) -> None:
    _write(tmp_path, USERS)
    found = _load(tmp_path)
    assert tuple(found.names) == ("f000", "f001")
    assert torch.equal(found.clients["f001"]["x"], torch.tensor([[0.5, 1.0], [0.0, 0.25]]))
    assert found.clients["f001"]["y"].tolist() == [3, 1]
    assert found.clients["f001"]["y"].dtype == torch.int64


def test_the_test_folder_belongs_to_nobody(tmp_path: Path) -> None:
    _write(tmp_path, USERS)
    with pytest.raises(DataError) as refusal:
        _load(tmp_path, held_out="test")
    assert refusal.value.code == "dataset_missing"
    _write(tmp_path, {"f000": ([[2.0, 2.0]], [0]), "f001": ([[3.0, 3.0]], [1])}, "test")
    found = _load(tmp_path, held_out="test")
    assert found.held_out is not None
    assert found.held_out["y"].tolist() == [0, 1]


def test_texts_are_code_points(tmp_path: Path) -> None:
    _write(tmp_path, {"ROMEO": (["abc", "bcd"], ["d", "e"])})
    found = _load(tmp_path).clients["ROMEO"]
    assert found["x"].tolist() == [[97, 98, 99], [98, 99, 100]]
    assert found["y"].tolist() == [[100], [101]]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "dataset_unreadable"),
        ("[]", "dataset_unreadable"),
        ('{"users": ["a"], "user_data": {}}', "dataset_unreadable"),
        ("[" * 100_000, "dataset_unreadable"),
        ('{"users": ["a"], "user_data": {"a": {"x": [[1], [1, 2]], "y": [1, 2]}}}', "dataset_not_numeric"),
        ('{"users": ["a"], "user_data": {"a": {"x": ["ab", "a"], "y": [1, 2]}}}', "dataset_not_numeric"),
        ('{"users": ["a"], "user_data": {"a": {"x": [[1], [2]], "y": [1]}}}', "dataset_ragged"),
        ('{"users": ["a"], "user_data": {"a": {"x": [[NaN]], "y": [1]}}}', "dataset_not_finite"),
    ],
)
def test_what_is_no_file_of_leaf_is_refused(content: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "x.json").write_text(content)
    with pytest.raises(DataError) as refusal:
        _load(tmp_path)
    assert refusal.value.code == code


def test_absent_files_are_told_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/\*\.json"):
        _load(tmp_path)
