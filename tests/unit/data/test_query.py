"""A query is read into a CSV file, within its limits, by a connection that cannot write; no message has its URL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from foedus.data.catalogue import read_owned
from foedus.data.owned import Reading
from foedus.data.query import snapshot
from foedus.domain.errors import DataError


@pytest.fixture
def database(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "clinic.db")) as connection:
        connection.execute("CREATE TABLE patients (age REAL, smoker BOOLEAN, ward TEXT)")
        connection.executemany("INSERT INTO patients VALUES (?, ?, ?)", [(63.5, 1, "a"), (None, 0, "b"), (41, 0, "a")])
        connection.commit()
    return tmp_path / "clinic.db"


def _query(database: Path, query: str, url: str = "", **limits: int) -> Path:
    path = database.with_name("query.toml")
    url = url or f"sqlite:///{database}"
    lines = [f"url = '{url}'", f'query = "{query}"', *(f"{name} = {value}" for name, value in limits.items())]
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return path


def test_rows_come_with_their_header_and_what_is_missing_is_empty(database: Path) -> None:
    moved: list[None] = []
    into = database.with_name("found.csv")
    snapshot(_query(database, "SELECT age, smoker, ward FROM patients"), into, lambda: moved.append(None))
    assert into.read_text().splitlines() == ["age,smoker,ward", "63.5,1,a", ",0,b", "41.0,0,a"]
    assert moved and sorted(path.name for path in database.parent.iterdir()) == ["clinic.db", "found.csv", "query.toml"]


def test_a_query_is_a_dataset_of_columns(database: Path) -> None:
    path = _query(database, "SELECT age, smoker FROM patients WHERE age IS NOT NULL")
    columns = read_owned(Reading(), path)
    assert {name: column.tolist() for name, column in columns.items()} == {"age": [63.5, 41.0], "smoker": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("query", "limits", "code"),
    [
        ("SELECT a.age FROM patients a, patients b", {"rows": 8}, "dataset_too_large"),
        ("SELECT a.age FROM patients a, patients b", {"bytes": 8}, "dataset_too_large"),
        ("SELECT ward FROM elsewhere", {}, "dataset_unreadable"),
        ("DELETE FROM patients", {}, "dataset_unreadable"),
        ("SELECT x'00ff' AS secret", {}, "dataset_not_numeric"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n", {"seconds": 1},
         "dataset_unreadable"),
    ],
)  # fmt: skip
def test_what_a_query_may_not_is_refused_and_leaves_nothing(
    database: Path, query: str, limits: dict[str, int], code: str
) -> None:
    into = database.with_name("found.csv")
    with pytest.raises(DataError) as caught:
        snapshot(_query(database, query, **limits), into)
    assert caught.value.code == code
    assert str(database) not in str(caught.value) and caught.value.__cause__ is None
    assert sorted(path.name for path in database.parent.iterdir()) == ["clinic.db", "query.toml"]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM patients").fetchone() == (3,)


def test_a_password_is_neither_left_for_others_to_read_nor_told(database: Path) -> None:
    path = _query(database, "SELECT 1", url="postgresql://zoe:s3cret@127.0.0.1:1/ward7")
    path.chmod(0o644)
    with pytest.raises(DataError) as caught:
        snapshot(path, database.with_name("found.csv"))
    assert caught.value.code == "query_exposed" and "s3cret" not in str(caught.value)
    path.chmod(0o600)
    with pytest.raises(DataError) as caught:  # nobody listens there
        snapshot(path, database.with_name("found.csv"))
    assert caught.value.code in {"dataset_unreadable", "extra_missing"}
    told = f"{caught.value} {caught.value.__cause__}"
    assert not any(part in told for part in ("s3cret", "zoe", "127.0.0.1", "ward7"))


def test_a_database_that_is_not_there_is_not_made(database: Path) -> None:
    absent = database.with_name("absent.db")
    with pytest.raises(DataError) as caught:
        snapshot(_query(database, "SELECT 1", url=f"sqlite:///{absent}"), database.with_name("found.csv"))
    assert caught.value.code == "dataset_unreadable" and not absent.exists()
