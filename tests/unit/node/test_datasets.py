"""What an owner may offer, and how it is kept; what nobody can learn from, or find for sure, is refused when added."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

from foedus.data.catalogue import read_owned
from foedus.data.files import write_columns
from foedus.domain.errors import ConfigError, ConflictError, DataError, FoedusError
from foedus.node.datasets import Terms, add_dataset
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
    assert (added.columns, added.kind, added.minimum) == (("image", "label"), "npz", 1)
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
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(("name", "tags"), [("../c", []), ("c\n", []), ("x" * 10_000, []), ("c", ["a/b"])])
def test_a_name_that_could_be_a_path_is_refused(home: Path, file: Path, name: str, tags: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        add_dataset(home, file, name, tags)
    assert caught.value.code == "name_refused"


def test_a_name_is_taken_once_and_tags_are_few(home: Path, file: Path) -> None:
    add_dataset(home, file, "c0000")
    with pytest.raises(ConflictError) as twice:
        add_dataset(home, file, "c0000", ["other"])
    assert twice.value.code == "dataset_exists"
    with pytest.raises(FoedusError) as caught:
        add_dataset(home, file, "c0001", [f"t{number}" for number in range(33)])
    assert caught.value.code == "too_many_tags"


@pytest.mark.parametrize(
    ("first", "second", "fine"),
    [
        (["digits"], ["digits"], False),
        (["digits"], ["digits", "blue"], False),
        (["digits", "blue"], ["blue"], False),
        (["digits"], [], False),
        ([], ["digits"], False),
        (["digits", "red"], ["digits", "blue"], True),
        (["digits"], ["stays"], True),
    ],
)
def test_f8_tags_that_are_equal_or_contained_are_refused_at_registration(
    home: Path, file: Path, first: list[str], second: list[str], fine: bool
) -> None:
    one = add_dataset(home, file, "c0000", first)
    if fine:
        add_dataset(home, file, "c0001", second)
        return
    with pytest.raises(ConflictError) as caught:
        add_dataset(home, file, "c0001", second)
    assert caught.value.code == "tags_overlap" and "c0000" in caught.value.what
    assert list_datasets(home) == (one,), "what is refused is not kept"
    remove_dataset(home, "c0000")
    add_dataset(home, file, "c0001", second)


def test_f8_fewer_examples_than_the_minimum_are_refused_at_registration(home: Path, file: Path) -> None:
    with pytest.raises(DataError) as caught:
        add_dataset(home, file, "c0000", terms=Terms(minimum=26))
    assert caught.value.code == "too_few_examples" and list_datasets(home) == ()
    assert add_dataset(home, file, "c0000", terms=Terms(minimum=25)).minimum == 25


def test_a_dataset_is_kept_with_what_its_owner_says_and_with_statistics(home: Path, tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_text("x,label\n1,0\n2,1\n6,1\n")
    added = add_dataset(home, tmp_path / "part.csv", "clinic", ["stays"], Terms(description="Stays of 2024", minimum=3))
    (kept,) = list_datasets(home)
    assert kept == added
    assert (kept.kind, kept.description, kept.minimum) == ("csv", "Stays of 2024", 3)
    label, x = kept.summary
    assert (x["name"], x["dtype"], x["shape"]) == ("x", "float32", [])
    assert [x[key] for key in ("mean", "low", "high")] == [3.0, 1.0, 6.0] and x["deviation"] == pytest.approx(2.1602469)
    assert label["mean"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        (Terms(kind="pickle"), "dataset_unknown"),
        (Terms(options={"size": 3}), "config_refused"),
        (Terms(minimum=0), "config_refused"),
        (Terms(description="two\nlines"), "description_refused"),
        (Terms(description="x" * 501), "description_refused"),
    ],
)
def test_what_an_owner_says_is_checked(home: Path, file: Path, terms: Terms, code: str) -> None:
    with pytest.raises(FoedusError) as caught:
        add_dataset(home, file, "c0000", terms=terms)
    assert caught.value.code == code and list_datasets(home) == ()


def test_a_home_of_before_goes_on_working(home: Path, file: Path) -> None:
    add_dataset(home, file, "c0000", ["digits"])
    with closing(sqlite3.connect(home / "vault.db")) as db:
        for column in ("kind", "options", "description", "minimum", "summary"):
            db.execute(f"ALTER TABLE datasets DROP COLUMN {column}")
        db.execute("DELETE FROM home")
        db.commit()
    (kept,) = list_datasets(home)
    assert (kept.kind, kept.options, kept.minimum, kept.summary) == ("", {}, 1, ())
    assert read_owned(kept.reading, kept.path)["image"].shape == (25, 4)
