"""What the owner edited is noticed when a run begins; a run that has begun works on its bytes or not at all."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from foedus.data.catalogue import read_owned
from foedus.data.files import write_columns
from foedus.domain.errors import ClientWorkError, DataError
from foedus.node.datasets import add_dataset
from foedus.node.noticing import as_begun, forget_runs
from foedus.node.owner import init, remove_dataset
from foedus.node.snapshots import FOLDER, place_of
from foedus.node.tables import begun
from foedus.node.vault import Dataset, Vault

root = pytest.mark.skipif(os.geteuid() != 0, reason="only a sandbox of root's is somebody else's")


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    """A node that offers three rows."""
    init(tmp_path / "home", "clinic-a")
    write(tmp_path, 1.0, 2.0, 3.0)
    add_dataset(tmp_path / "home", tmp_path / "data.npz", "c0")
    with Vault(tmp_path / "home") as opened:
        yield opened


def write(folder: Path, *values: float) -> None:
    write_columns(folder / "data.npz", {"days": torch.tensor(values)})


def _off(vault: Vault) -> None:
    """The run reads where the data lie, whoever the node is."""
    (vault.home / "policy.toml").write_text('sandbox = "off"\n')


def began(vault: Vault, run: str) -> Dataset:
    (dataset,) = vault.datasets()
    return asyncio.run(as_begun(vault, run, dataset, lambda: None))


def changes(vault: Vault) -> list[str]:
    return [line.detail for line in vault.audit() if line.event == "dataset_changed"]


def test_an_edit_with_as_many_rows_is_noticed_by_the_next_run_and_refused_by_the_one_before(
    vault: Vault, tmp_path: Path
) -> None:
    _off(vault)
    first = began(vault, "one")
    assert first == vault.datasets()[0] and first.summary[0]["high"] == 3.0
    write(tmp_path, 1.0, 2.0, 9.0)
    with pytest.raises(ClientWorkError) as caught:
        began(vault, "one")
    assert caught.value.code == "dataset_changed"
    assert vault.datasets()[0].summary[0]["high"] == 3.0, "never in the middle of a run"
    assert changes(vault) == []
    second = began(vault, "two")
    assert (second.examples, second.summary[0]["high"], second.added_at) == (3, 9.0, first.added_at)
    assert vault.datasets() == (second,) and began(vault, "two") == second
    assert changes(vault) == ["edited since: 3 examples before, 3 now"]
    write(tmp_path, 1.0, 2.0, 3.0)
    assert began(vault, "one").summary[0]["high"] == 9.0, "with the bytes of before it goes on"


def test_what_is_only_saved_again_is_not_a_change(vault: Vault, tmp_path: Path) -> None:
    _off(vault)
    first = began(vault, "one")
    os.utime(tmp_path / "data.npz", (1, 1))
    (tmp_path / "copy.npz").write_bytes((tmp_path / "data.npz").read_bytes())
    (tmp_path / "copy.npz").replace(tmp_path / "data.npz")
    assert began(vault, "one") == began(vault, "two") == first
    assert changes(vault) == []


def test_more_rows_are_counted_and_what_is_no_dataset_any_more_says_why(vault: Vault, tmp_path: Path) -> None:
    _off(vault)
    write(tmp_path, 1.0, 2.0, 3.0, 4.0)
    assert began(vault, "one").examples == 4 and vault.told()[0][0].examples == 4
    write(tmp_path, 1.0, float("nan"))
    with pytest.raises(DataError) as caught:
        began(vault, "two")
    assert caught.value.code == "dataset_not_finite" and str(tmp_path) not in str(caught.value)
    assert vault.datasets()[0].examples == 4
    assert changes(vault) == ["edited since: 3 examples before, 4 now"]


def test_a_run_that_asks_no_more_is_forgotten(vault: Vault) -> None:
    _off(vault)
    began(vault, "one")
    for seconds, left in ((3600.0, ["one"]), (-1.0, [])):
        forget_runs(vault, seconds)
        with vault.reading() as db:
            assert db.execute(select(begun.c.run)).scalars().all() == left


def test_a_run_keeps_the_rows_of_its_query_and_the_next_one_has_new_statistics(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "clinic.db")) as db:
        db.execute("CREATE TABLE stays (days REAL)")
        db.executemany("INSERT INTO stays VALUES (?)", [(3,), (5,)])
        db.commit()
    (tmp_path / "query.toml").write_text(f"url = 'sqlite:///{tmp_path}/clinic.db'\nquery = 'SELECT * FROM stays'\n")
    init(tmp_path / "home", "clinic-a")
    add_dataset(tmp_path / "home", tmp_path / "query.toml", "stays")
    with Vault(tmp_path / "home") as vault:
        assert began(vault, "one").summary[0]["high"] == 5.0
        assert changes(vault) == []
        with closing(sqlite3.connect(tmp_path / "clinic.db")) as db:
            db.execute("UPDATE stays SET days = 9 WHERE days = 5")
            db.commit()
        assert began(vault, "one").summary[0]["high"] == 5.0
        dataset = began(vault, "two")
        assert dataset.summary[0]["high"] == 9.0 and changes(vault) == ["edited since: 2 examples before, 2 now"]
        began(vault, "one")
        assert vault.datasets() == (dataset,), "a run of before changes nothing"
        path, reading = place_of(vault.home, "one", dataset, lambda: None)
        assert read_owned(reading, path)["days"].tolist() == [3.0, 5.0]


@root
def test_a_sandbox_of_root_s_is_shown_a_copy_of_what_only_root_may_read(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "data.npz").chmod(0o600)
    first = began(vault, "one")
    assert first.path.parent == vault.home / FOLDER and first.path.suffix == ".npz"
    assert first.path.stat().st_mode & 0o777 == 0o644 and first.path.parent.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data.npz").stat().st_mode & 0o777 == 0o600, "a dataset's mode is its owner's"
    assert began(vault, "two").path == first.path, "the same bytes are copied once"
    write(tmp_path, 1.0, 2.0, 9.0)
    (tmp_path / "data.npz").chmod(0o600)
    assert began(vault, "one").path == first.path, "a run that has a copy goes on with it"
    remove_dataset(vault.home, "c0")
    assert list((vault.home / FOLDER).iterdir()) == []
