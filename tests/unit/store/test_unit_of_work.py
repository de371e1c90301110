"""Transactions commit whole or not at all, one at a time, and tell their listeners; crash points kill for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from foedus.domain.errors import StorageError
from foedus.store.notices import MISSED
from foedus.store.tables import blobs
from foedus.store.unit_of_work import Store, notice


def _store(folder: Path) -> Store:
    return Store(f"sqlite:///{folder / 'a.db'}")


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store on a fresh database of either kind."""
    opened = Store(database_url, migrate=True)
    yield opened
    opened.close()


def _count(store: Store) -> int:
    with store.reading() as tx:
        return tx.execute(select(func.count()).select_from(blobs)).scalar_one()


def _row(digest: str) -> dict[str, object]:
    return {"digest": digest, "size": 1, "created_at": 0.0}


def test_an_error_takes_everything_back_and_tells_nobody(store: Store) -> None:
    heard = list[str]()
    store.on_commit(lambda names: heard.extend(sorted(names)), lambda name: (name,))
    with pytest.raises(RuntimeError), store.transaction("broken") as tx:
        tx.execute(insert(blobs).values(**_row("a")))
        notice(tx, "broken")
        raise RuntimeError
    assert _count(store) == 0
    with store.transaction("good") as tx:
        tx.execute(insert(blobs).values(**_row("a")))
        notice(tx, "bell")
    assert _count(store) == 1
    assert [name for name in heard if name != MISSED] == ["bell", "good"]


def test_a_statement_on_its_own_is_committed_at_once_and_heard_by_nobody(store: Store) -> None:
    heard = list[str]()
    store.on_commit(lambda names: heard.extend(sorted(names)), lambda name: (name,))
    with pytest.raises(RuntimeError), store.statements() as each:
        each.execute(insert(blobs).values(**_row("a")))
        assert _count(store) == 1
        with store.transaction("between") as tx:
            tx.execute(insert(blobs).values(**_row("b")))
        assert each.execute(select(func.count()).select_from(blobs)).scalar_one() == 2
        raise RuntimeError
    assert _count(store) == 2
    assert [name for name in heard if name != MISSED] == ["between"]
    with store.transaction("as before") as tx:
        tx.execute(insert(blobs).values(**_row("c")))
        assert _count(store) == 2


def test_a_listener_sees_what_was_committed(store: Store) -> None:
    counts = list[int]()
    store.on_commit(lambda names: counts.append(_count(store)), lambda name: (name,))
    with store.transaction("one") as tx:
        tx.execute(insert(blobs).values(**_row("a")))
    assert counts == [1]


def test_writers_wait_for_each_other_and_none_is_lost(store: Store) -> None:
    with store.transaction("start") as tx:
        tx.execute(insert(blobs).values(digest="n", size=0, created_at=0.0))

    def count_up() -> None:
        for _ in range(20):
            with store.transaction("up") as tx:
                size = tx.execute(select(blobs.c.size)).scalar_one()
                tx.execute(update(blobs).values(size=size + 1))

    threads = [threading.Thread(target=count_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.reading() as tx:
        assert tx.execute(select(blobs.c.size)).scalar_one() == 120


def test_a_database_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as refusal:
        _store(tmp_path / "missing")
    assert refusal.value.code == "database_failed"


def test_a_file_that_is_no_database_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"something else" * 100)
    with pytest.raises(StorageError) as refusal:
        _store(tmp_path)
    assert refusal.value.code == "database_failed"
    assert (tmp_path / "a.db").read_bytes() == b"something else" * 100


def test_a_row_that_exists_is_the_callers_to_judge(store: Store) -> None:
    with pytest.raises(IntegrityError), store.transaction("t") as tx:
        for _ in range(2):
            tx.execute(insert(blobs).values(**_row("a")))
    assert _count(store) == 0


def test_a_full_disk_takes_the_transaction_back_and_is_told(tmp_path: Path) -> None:
    store = _store(tmp_path)
    with pytest.raises(StorageError) as refusal, store.transaction("t") as tx:
        tx.execute(insert(blobs).values(**_row("a")))
        pages = tx.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        for number in range(10_000):
            tx.execute(insert(blobs).values(**_row(f"{number:064x}")))
    assert refusal.value.code == "disk_full"
    assert _count(store) == 0


CHILD = """
import sys
from pathlib import Path
from sqlalchemy import insert
from foedus.store.artifacts import Artifacts
from foedus.store.tables import blobs
from foedus.store.unit_of_work import Store
folder = Path(sys.argv[1])
store, artifacts = Store(f"sqlite:///{folder / 'a.db'}"), Artifacts(folder)
for name in "abc":
    digest = artifacts.put_bytes(name.encode())
    with store.transaction("keep") as tx:
        tx.execute(insert(blobs).values(digest=digest, size=1, created_at=0.0))
"""
POINTS = [f"{kind}:{when}" for kind in ("rename:blob", "commit:keep") for when in ("before", "after")]


def _run(folder: Path, **environment: str) -> int:
    env = {**os.environ, "PYTHONPATH": "src", **environment}
    return subprocess.run([sys.executable, "-c", CHILD, str(folder)], env=env, check=False, timeout=240).returncode


def test_every_crash_point_is_logged_and_kills_at_its_occurrence(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert _run(tmp_path, FOEDUS_CRASH_LOG=str(log)) == 0
    expected = ["commit:migrate:before:1", "commit:migrate:after:1"]
    expected += [f"{point}:{at}" for at in (1, 2, 3) for point in POINTS]
    assert log.read_text().split() == expected


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_process_leaves_no_row_without_its_blob(point: str, tmp_path: Path) -> None:
    assert _run(tmp_path, FOEDUS_CRASH=f"{point}:2") == -signal.SIGKILL
    store = _store(tmp_path)
    with store.reading() as tx:
        digests = tx.execute(select(blobs.c.digest)).scalars().all()
    assert len(digests) == (2 if point == "commit:keep:after" else 1)
    blob_files = {path.parent.name + path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
    assert set(digests) <= blob_files
