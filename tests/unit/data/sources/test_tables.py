"""Tables of a user's own, in every format: one pool, or clients by a column, read when they are asked for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foedus.data.catalogue import load
from foedus.data.files import write_columns
from foedus.data.population import Federation
from foedus.data.sources.source import Pool, by_code, client_names
from foedus.domain.errors import DataError
from foedus.domain.run import DataTable

SITES = ["va", "cleveland", "va", "hungary", "va"]
AGES = [61.5, 40.0, 52.0, 70.0, 33.0]
LABELS = [1, 0, 1, 1, 0]


def _csv(path: Path) -> None:
    rows = [f"{site},{age},{label}" for site, age, label in zip(SITES, AGES, LABELS, strict=True)]
    path.write_text("\n".join(["site,age,label", *rows, ""]))


def _parquet(path: Path, group: int = 2) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"site": SITES, "age": AGES, "label": LABELS}), path, row_group_size=group)


def _arrow(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    table = pyarrow.table({"site": SITES, "age": AGES, "label": LABELS})
    with pyarrow.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def _sqlite(path: Path, index: str = "CREATE INDEX by_site ON patients (site)") -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE patients (site TEXT, age REAL, label INTEGER)")
        database.executemany("INSERT INTO patients VALUES (?, ?, ?)", zip(SITES, AGES, LABELS, strict=True))
        database.execute(index)
    database.close()


WRITERS: dict[str, Callable[[Path], None]] = {"csv": _csv, "parquet": _parquet, "arrow": _arrow, "sqlite": _sqlite}


def _federation(name: str, file: Path, **keys: object) -> Federation:
    options = {"table": "patients"} if name == "sqlite" else {}
    found = load(
        DataTable.model_validate({"name": name, "file": str(file), "client": "site", "options": options, **keys})
    )
    assert isinstance(found, Federation)
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_a_column_s_values_are_the_clients(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"data.{name}"
    WRITERS[name](file)
    found = _federation(name, file)
    assert tuple(found.names) == ("cleveland", "hungary", "va")
    assert found.clients["va"]["age"].tolist() == [61.5, 52.0, 33.0]
    assert found.clients["va"]["label"].tolist() == [1, 1, 0]
    assert found.clients["hungary"]["age"].tolist() == [70.0]
    assert list(found.clients["cleveland"]) == ["age", "label"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_column_that_is_not_there_is_told_with_the_nearest(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"data.{name}"
    WRITERS[name](file)
    with pytest.raises(DataError, match="Did you mean `site`") as refusal:
        _federation(name, file, client="sites")
    assert refusal.value.code == "column_missing"


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_not_one_of_its_kind_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"data.{name}"
    file.write_bytes(b"\x80\x04K\x01.\xff\xfe no such thing")
    with pytest.raises(DataError) as refusal:
        _federation(name, file)
    assert refusal.value.code == "dataset_unreadable"
    with pytest.raises(DataError) as refusal:
        _federation(name, tmp_path / f"elsewhere.{name}")
    assert refusal.value.code == "dataset_missing"


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_without_a_column_of_clients_a_file_is_one_pool(name: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "image": pyarrow.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], pyarrow.list_(pyarrow.list_(pyarrow.uint8()))),
            "fixed": pyarrow.array([[1.0, 2.0], [3.0, 4.0]], pyarrow.list_(pyarrow.float32(), 2)),
            "label": pyarrow.array([0, 1], pyarrow.uint16()),
            "flag": [True, False],
        }
    )
    file = tmp_path / f"data.{name}"
    if name == "parquet":
        parquet.write_table(table, file)
    else:
        with pyarrow.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table)
    found = load(DataTable(name=name, file=str(file)))
    assert isinstance(found, Pool)
    assert found.columns["image"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert (found.columns["image"].dtype, found.columns["fixed"].shape) == (torch.uint8, (2, 2))
    assert (found.columns["label"].dtype, found.columns["flag"].dtype) == (torch.int64, torch.bool)


@pytest.mark.parametrize(
    ("column", "code"),
    [
        (["a", "b"], "dataset_not_numeric"),
        ([[1], [1, 2]], "dataset_not_numeric"),
        ([True, None], "dataset_not_numeric"),
    ],
)
def test_columns_that_are_no_numbers_are_refused(column: list[object], code: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"x": column}), tmp_path / "t.parquet")
    with pytest.raises(DataError) as refusal:
        load(DataTable(name="parquet", file=str(tmp_path / "t.parquet")))
    assert refusal.value.code == code


def test_a_client_s_rows_come_from_the_row_groups_that_hold_them(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    owner = np.repeat(np.arange(1000), 7)
    table = pyarrow.table({"user": owner, "x": np.arange(7000)})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    found = _federation("parquet", tmp_path / "t.parquet", client="user")
    assert len(found.names) == 1000
    for name in ("0", "14", "15", "999"):
        first = 7 * int(name)
        assert found.clients[name]["x"].tolist() == list(range(first, first + 7))


def test_an_npz_may_have_clients_too(tmp_path: Path) -> None:
    write_columns(tmp_path / "t.npz", {"site": torch.tensor([3, 1, 3]), "x": torch.arange(3)})
    found = _federation("npz", tmp_path / "t.npz")
    assert {name: columns["x"].tolist() for name, columns in found.clients.items()} == {"1": [1], "3": [0, 2]}


def test_a_test_part_is_a_file_beside_the_first(tmp_path: Path) -> None:
    _csv(tmp_path / "train.csv")
    (tmp_path / "test.csv").write_text("site,age,label\nva,1,0\n")
    options = {"test": "test.csv"}
    found = _federation("csv", tmp_path / "train.csv", held_out="test", options=options)
    assert found.held_out is not None
    assert found.held_out["age"].tolist() == [1.0]
    pool = load(DataTable(name="npz", file=str(_npz(tmp_path)), held_out="test", options={"test": "t.npz"}))
    assert isinstance(pool, Pool)
    assert pool.test is not None
    with pytest.raises(DataError, match=r"options\.test"):
        load(DataTable(name="npz", file=str(_npz(tmp_path)), held_out="test"))


def _npz(folder: Path) -> Path:
    write_columns(folder / "t.npz", {"x": torch.arange(3)})
    return folder / "t.npz"


def test_a_table_of_another_ending_is_refused(tmp_path: Path) -> None:
    _csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"\.npz"):
        load(DataTable(name="npz", file=str(tmp_path / "t.csv")))


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "t.npz").open("wb") as file:
        file.truncate(9 * 2**30)
    with pytest.raises(DataError) as refusal:
        load(DataTable(name="npz", file=str(tmp_path / "t.npz")))
    assert refusal.value.code == "dataset_too_large"


def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "t.npz", x=np.zeros(100_000))
    assert (tmp_path / "t.npz").stat().st_size < 10_000
    monkeypatch.setattr("foedus.data.sources.source.check_size.__defaults__", (10_000,))
    with pytest.raises(DataError) as refusal:
        load(DataTable(name="npz", file=str(tmp_path / "t.npz")))
    assert refusal.value.code == "dataset_too_large"


@pytest.mark.parametrize("client", ["site", None])
def test_a_row_group_over_the_limit_is_refused(
    client: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _parquet(tmp_path / "t.parquet")
    monkeypatch.setattr("foedus.data.sources.source.check_size.__defaults__", (50,))
    with pytest.raises(DataError) as refusal:
        load(DataTable(name="parquet", file=str(tmp_path / "t.parquet"), client=client))
    assert refusal.value.code == "dataset_too_large"


def test_a_table_without_an_index_is_refused_with_the_statement_that_makes_one(tmp_path: Path) -> None:
    _sqlite(tmp_path / "t.sqlite", "CREATE INDEX by_age ON patients (age)")
    with pytest.raises(DataError, match=r'CREATE INDEX by_client ON "patients" \("site"\)') as refusal:
        _federation("sqlite", tmp_path / "t.sqlite")
    assert refusal.value.code == "dataset_not_indexed"


def test_sqlite_needs_a_table_and_a_column_of_clients(tmp_path: Path) -> None:
    _sqlite(tmp_path / "t.sqlite")
    with pytest.raises(DataError) as refusal:
        _federation("sqlite", tmp_path / "t.sqlite", client=None)
    assert refusal.value.code == "client_column_missing"
    with pytest.raises(DataError, match="no table"):
        _federation("sqlite", tmp_path / "t.sqlite", options={"table": 'x"; DROP TABLE patients; --'})
    assert len(_federation("sqlite", tmp_path / "t.sqlite").names) == 3


def test_blobs_are_bytes_and_missing_values_are_not_numbers(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "t.sqlite") as database:
        database.execute("CREATE TABLE patients (site INTEGER, image BLOB, age REAL, stage INTEGER)")
        database.executemany(
            "INSERT INTO patients VALUES (?, ?, ?, ?)", [(2, b"\1\2", None, 1), (10, b"\3\4", 1.5, None)]
        )
        database.execute("CREATE INDEX by_site ON patients (site)")
    database.close()
    found = _federation("sqlite", tmp_path / "t.sqlite")
    assert tuple(found.names) == ("10", "2")
    assert found.clients["2"]["image"].tolist() == [[1, 2]]
    assert bool(found.clients["2"]["age"].isnan().all())
    with pytest.raises(DataError) as refusal:
        found.clients["10"]
    assert refusal.value.code == "dataset_not_numeric"


def test_names_of_clients_are_made_of_their_keys_or_numbered() -> None:
    assert client_names(["First Citizen", "ALL"]) == (("ALL", "First-Citizen"), [1, 0])
    names, places = client_names(["a b", "a-b", "A"])
    assert (list(names), places) == (["c0000", "c0001", "c0002"], [2, 0, 1])
    assert list(client_names(["", "x"])[0]) == ["c0000", "c0001"]
    names, division = by_code(np.array([1, 0, 1]), ["z", "y"])
    assert {name: division.at(at).tolist() for at, name in enumerate(names)} == {"y": [0, 2], "z": [1]}
