"""A dataset that nobody can learn from is refused when its owner adds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foedus.data.files import write_columns
from foedus.domain.errors import ConfigError, ConflictError, DataError, FoedusError
from foedus.node.datasets import add_dataset
from foedus.node.owner import init, list_datasets, remove_dataset
from tests.unit.node.support import columns


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init(tmp_path / "home", "clinic-a")
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_columns(tmp_path / "data.npz", columns())
    return tmp_path / "data.npz"


def test_a_dataset_is_counted_and_found_wherever_one_is(
    home: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    added = add_dataset(home, Path("data.npz"), "c0000", ["digits", "blue", "digits"])
    assert (added.path, added.examples, added.tags) == (file, 25, ("blue", "digits"))
    assert added.columns == ("image", "label")
    assert list_datasets(home) == (added,)
    remove_dataset(home, "c0000")
    assert list_datasets(home) == ()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"image": torch.zeros(0, 4)}, "dataset_empty"),
        ({"image": torch.tensor([1.0, float("nan")])}, "dataset_not_finite"),
        ({"image": torch.zeros(3), "label": torch.zeros(2)}, "dataset_ragged"),
    ],
)
def test_a_dataset_that_spoils_a_model_is_refused(
    home: Path, tmp_path: Path, content: dict[str, torch.Tensor], code: str
) -> None:
    write_columns(tmp_path / "bad.npz", content)
    with pytest.raises(DataError) as caught:
        add_dataset(home, tmp_path / "bad.npz", "c0000")
    assert caught.value.code == code
    assert list_datasets(home) == ()


@pytest.mark.parametrize("name", ["absent.npz", "data.pickle", "junk.npz"])
def test_a_file_that_is_no_dataset_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    if name != "absent.npz":
        (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(DataError) as caught:
        add_dataset(home, tmp_path / name, "c0000")
    assert caught.value.code == "dataset_unreadable"


@pytest.mark.parametrize(("name", "tags"), [("../c", []), ("c\n", []), ("x" * 10_000, []), ("c", ["a/b"])])
def test_a_name_that_could_be_a_path_is_refused(home: Path, file: Path, name: str, tags: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        add_dataset(home, file, name, tags)
    assert caught.value.code == "name_refused"


def test_a_name_is_taken_once_and_tags_are_few(home: Path, file: Path) -> None:
    add_dataset(home, file, "c0000")
    with pytest.raises(ConflictError):
        add_dataset(home, file, "c0000")
    with pytest.raises(FoedusError) as caught:
        add_dataset(home, file, "c0001", [f"t{number}" for number in range(33)])
    assert caught.value.code == "too_many_tags"
