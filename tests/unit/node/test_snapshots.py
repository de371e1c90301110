"""A query's rows are read once per run, outside the sandbox; what a plan sees is a file of them."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from foedus.data.catalogue import read_owned
from foedus.domain.errors import DataError
from foedus.node.datasets import add_dataset
from foedus.node.owner import init
from foedus.node.snapshots import FOLDER, forget, place_of
from foedus.node.vault import Dataset


def moved() -> None:
    """Nobody counts."""


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    with closing(sqlite3.connect(tmp_path / "clinic.db")) as db:
        db.execute("CREATE TABLE stays (days REAL, label INTEGER)")
        db.executemany("INSERT INTO stays VALUES (?, ?)", [(3, 0), (5, 1)])
        db.commit()
    (tmp_path / "query.toml").write_text(f"url = 'sqlite:///{tmp_path}/clinic.db'\nquery = 'SELECT * FROM stays'\n")
    init(tmp_path / "home", "clinic-a")
    return add_dataset(tmp_path / "home", tmp_path / "query.toml", "stays")


def test_a_run_sees_the_rows_that_it_began_with_and_the_next_run_new_ones(dataset: Dataset, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert (dataset.kind, dataset.examples) == ("sql", 2)
    path, reading = place_of(home, "../../run", dataset, moved)
    assert path.parent == home / FOLDER and reading.kind == "csv"
    with closing(sqlite3.connect(tmp_path / "clinic.db")) as db:
        db.execute("INSERT INTO stays VALUES (9, 1)")
        db.commit()
    again, _ = place_of(home, "../../run", dataset, moved)
    other, _ = place_of(home, "another", dataset, moved)
    assert read_owned(reading, again)["days"].tolist() == [3.0, 5.0]
    assert read_owned(reading, other)["days"].tolist() == [3.0, 5.0, 9.0]
    (tmp_path / "clinic.db").unlink()
    assert place_of(home, "another", dataset, moved)[0] == other
    with pytest.raises(DataError) as caught:
        place_of(home, "third", dataset, moved)
    assert caught.value.code == "dataset_unreadable" and str(tmp_path) not in str(caught.value)


def test_snapshots_are_forgotten_with_their_runs(dataset: Dataset, tmp_path: Path) -> None:
    home = tmp_path / "home"
    old, new = (place_of(home, run, dataset, moved)[0] for run in ("old", "new"))
    os.utime(old, (0, time.time() - 100))
    forget(home, 50)
    assert (old.is_file(), new.is_file()) == (False, True)
    forget(tmp_path, 50)  # a home without any
