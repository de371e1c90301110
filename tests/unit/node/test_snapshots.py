"""A query's rows are read once per run, outside the sandbox; what a plan sees is a file of them."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from foedus.data.catalogue import read_owned
from foedus.domain.errors import DataError
from foedus.node.datasets import add_dataset
from foedus.node.looks import digest_of
from foedus.node.owner import init
from foedus.node.snapshots import FOLDER, copy, forget, needs_copy, place_of
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


def test_what_an_ask_that_was_let_go_still_reads_spoils_nothing_for_the_next(dataset: Dataset, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "clinic.db")) as db:
        db.executemany("INSERT INTO stays VALUES (?, ?)", [(day, 1) for day in range(3000)])
        db.commit()
    home, reached, go_on = tmp_path / "home", threading.Event(), threading.Event()

    def waiting() -> None:
        reached.set()
        go_on.wait(60)

    first = threading.Thread(target=place_of, args=(home, "r_1", dataset, waiting))
    second = threading.Thread(target=place_of, args=(home, "r_1", dataset, moved))
    first.start()
    assert reached.wait(60)
    second.start()
    second.join(0.5)
    go_on.set()
    first.join()
    second.join()
    path, reading = place_of(home, "r_1", dataset, moved)
    assert read_owned(reading, path)["days"].tolist() == [3.0, 5.0, *range(3000)]
    assert list((home / FOLDER).iterdir()) == [path]


def test_snapshots_are_forgotten_with_their_runs(dataset: Dataset, tmp_path: Path) -> None:
    home = tmp_path / "home"
    old, new = (place_of(home, run, dataset, moved)[0] for run in ("old", "new"))
    os.utime(old, (0, time.time() - 100))
    forget(home, 50)
    assert (old.is_file(), new.is_file()) == (False, True)
    forget(tmp_path, 50)  # a home without any


@pytest.mark.skipif(os.geteuid() != 0, reason="only a sandbox of root's is somebody else's")
@pytest.mark.parametrize("closed", ["", "a", "a/b/x"])
def test_a_folder_that_is_closed_anywhere_is_copied_whole(dataset: Dataset, tmp_path: Path, closed: str) -> None:
    home, scans = tmp_path / "home", tmp_path / "scans"
    (scans / "a" / "b").mkdir(parents=True)
    (scans / "a" / "b" / "x").write_text("1")
    (scans / "y").write_text("2")
    assert not needs_copy(home, scans)
    (scans / closed).chmod(0o700)
    assert needs_copy(home, scans)
    shown = copy(home, replace(dataset, path=scans), digest_of(scans, moved), moved)
    assert sorted(str(path.relative_to(shown)) for path in shown.rglob("*")) == ["a", "a/b", "a/b/x", "y"]
    for path in (shown, *shown.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)
    assert digest_of(shown, moved) == digest_of(scans, moved)
    forget(home, -1.0)
    assert list((home / FOLDER).iterdir()) == []
    (home / "policy.toml").write_text('sandbox = "off"\n')
    assert not needs_copy(home, scans), "without a sandbox the node itself reads"


@pytest.mark.skipif(os.geteuid() != 0, reason="only a sandbox of root's is somebody else's")
def test_what_changes_while_it_is_copied_is_refused_and_leaves_nothing(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        copy(tmp_path / "home", dataset, "0" * 64, moved)
    assert caught.value.code == "dataset_unreadable"
    assert list((tmp_path / "home" / FOLDER).iterdir()) == []
