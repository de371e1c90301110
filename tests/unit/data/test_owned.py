"""What an owner's file or folder is taken for, and that it is read as the sources of a simulation read theirs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foedus.data.catalogue import load, read_owned
from foedus.data.loading_plan import LoadingPlan
from foedus.data.owned import KINDS, Reading, kind_of
from foedus.data.reading import columns_of, kind_read
from foedus.domain.errors import FoedusError
from foedus.domain.run import DataTable


def _csv(folder: Path) -> Path:
    (folder / "part.csv").write_text("x,label\n1.5,0\n2.5,1\n")
    return folder / "part.csv"


def _parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"x": [1.5, 2.5], "label": [0, 1]}), folder / "part.parquet")
    return folder / "part.parquet"


def _npz(folder: Path) -> Path:
    np.savez(folder / "part.npz", x=np.array([1.5, 2.5]), label=np.array([0, 1]))
    return folder / "part.npz"


@pytest.mark.parametrize("write", [_csv, _parquet, _npz])
def test_a_table_is_known_by_its_ending_and_read_as_a_simulation_reads_it(tmp_path: Path, write) -> None:
    path = write(tmp_path)
    columns = read_owned(Reading(), path)
    assert {name: column.tolist() for name, column in columns.items()} == {"x": [1.5, 2.5], "label": [0, 1]}
    simulated = load(DataTable(name=kind_of(path), file=path.name), tmp_path).columns
    assert all(torch.equal(columns[name], simulated[name]) for name in simulated)


def test_a_folder_of_folders_is_images_with_their_options(tmp_path: Path) -> None:
    for at, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 3), (at, 0, 0)).save(tmp_path / name / "1.png")
    columns = read_owned(Reading(options={"mode": "L", "size": 2}), tmp_path)
    assert columns["image"].shape == (2, 2, 2) and columns["label"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("place", "kind", "code"),
    [
        ("absent.csv", "", "dataset_unreadable"),
        ("part.pickle", "", "dataset_unreadable"),
        ("part.csv", "images", "dataset_unreadable"),
        ("", "csv", "dataset_unreadable"),
        ("part.csv", "sqlite", "dataset_unknown"),
        ("part.csv", "../csv", "dataset_unknown"),
    ],
)
def test_what_cannot_be_read_is_refused_without_its_path(tmp_path: Path, place: str, kind: str, code: str) -> None:
    _csv(tmp_path)
    (tmp_path / "part.pickle").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(FoedusError) as caught:
        read_owned(Reading(kind=kind), tmp_path / place)
    assert caught.value.code == code
    assert str(tmp_path) not in str(caught.value)


PLAN = LoadingPlan.model_validate(
    {"name": "wards", "columns": {"age": {"missing": "mean"}, "ward": {"classes": {"a": 0.0, "b": 1.0}}}}
)


@pytest.mark.parametrize("kind", ["csv", "data", "parquet", "arrow", "sql"])
def test_a_loading_plan_reads_text_from_every_kind_of_table(tmp_path: Path, kind: str) -> None:
    columns: dict[str, Any] = {"ward": ["a", "b", "b"], "age": [61.5, None, 40.5]}
    path = tmp_path / f"part.{kind}"
    if kind in ("csv", "data"):
        path.write_text("ward,age\na,61.5\nb,\nb,40.5\n")
    elif kind == "sql":
        with closing(sqlite3.connect(tmp_path / "db")) as db:
            db.execute("CREATE TABLE t (ward TEXT, age REAL)")
            db.executemany("INSERT INTO t VALUES (?, ?)", zip(columns["ward"], columns["age"], strict=True))
            db.commit()
        path = tmp_path / "part.toml"
        path.write_text(f"url = 'sqlite:///{tmp_path}/db'\nquery = 'SELECT * FROM t'\n")
    elif kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").table(columns), path)
    else:
        pyarrow, ipc = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.ipc")
        table = pyarrow.table(columns)
        with ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    found = columns_of(Reading(), PLAN, path)
    assert {name: column.tolist() for name, column in found.items()} == {"age": [61.5, 51.0, 40.5], "ward": [0, 1, 1]}
    assert kind_read(Reading(), PLAN, path) == ("csv" if kind == "data" else kind)


def test_a_loading_plan_does_not_read_what_has_no_text(tmp_path: Path) -> None:
    with pytest.raises(FoedusError) as caught:
        columns_of(Reading(), PLAN, _npz(tmp_path))
    assert caught.value.code == "loading_refused"


def test_options_that_a_kind_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FoedusError) as caught:
        read_owned(Reading(options={"size": 2}), _csv(tmp_path))
    assert caught.value.code == "config_refused"


def test_every_kind_is_a_source_of_simulations_too() -> None:
    for kind in KINDS:
        with pytest.raises(FoedusError) as caught:
            load(DataTable(name=kind))
        assert caught.value.code == "dataset_missing"
