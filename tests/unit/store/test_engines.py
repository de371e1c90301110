"""Two kinds of databases, one meaning: who writes what another reads waits, and others do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import func, insert, select, text, update

from foedus.domain.errors import ConfigError, UnreachableError
from foedus.store import engines
from foedus.store.engines import database_time, hold, make_engine
from foedus.store.tables import blobs
from foedus.store.unit_of_work import Store


@pytest.fixture
def stores(postgres_url: str) -> Iterator[tuple[Store, Store]]:
    """Two processes' stores on one PostgreSQL."""
    made = (Store(postgres_url, migrate=True), Store(postgres_url))
    with made[0].transaction("start") as tx:
        tx.execute(insert(blobs).values(digest="n", size=0, created_at=0.0))
    yield made
    for store in made:
        store.close()


def _count_up(store: Store, scope: str | None, held: str | None = None) -> None:
    for _ in range(15):
        with store.transaction("up", scope=scope) as tx:
            if held is not None:
                hold(tx, held)
            size = tx.execute(select(blobs.c.size)).scalar_one()
            tx.execute(update(blobs).values(size=size + 1))


@pytest.mark.parametrize(
    ("first", "second", "held"),
    [(None, None, None), ("run", "run", None), (None, "run", None), ("a", "b", "chain")],
    ids=["both alone", "one scope", "alone beside a scope", "two scopes that hold a name"],
)
def test_none_of_what_processes_count_up_is_lost(
    stores: tuple[Store, Store], first: str | None, second: str | None, held: str | None
) -> None:
    threads = [
        threading.Thread(target=_count_up, args=(store, scope, held))
        for store, scope in zip(stores * 2, (first, second) * 2, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with stores[0].reading() as tx:
        assert tx.execute(select(blobs.c.size)).scalar_one() == 60


def test_scopes_do_not_wait_for_each_other(stores: tuple[Store, Store]) -> None:
    """Two transactions are open at once, which would wait for ever if the one needed the other's end."""
    with stores[0].transaction("one", scope="a") as one, stores[1].transaction("other", scope="b") as other:
        assert one.execute(select(func.count()).select_from(blobs)).scalar_one() == 1
        assert other.execute(select(func.count()).select_from(blobs)).scalar_one() == 1


def test_what_is_read_is_one_snapshot(stores: tuple[Store, Store]) -> None:
    with stores[0].reading() as tx:
        before = tx.execute(select(blobs.c.size)).scalar_one()
        with stores[1].transaction("up") as other:
            other.execute(update(blobs).values(size=99))
        assert tx.execute(select(blobs.c.size)).scalar_one() == before


def test_a_process_that_stops_in_a_transaction_is_cut_off_and_holds_nobody_up(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "STALLED", 1.0)
    with pytest.raises(UnreachableError) as refusal, stores[0].transaction("stalled") as tx:
        tx.execute(update(blobs).values(size=7))
        with stores[1].transaction("waits") as other:
            assert other.execute(select(blobs.c.size)).scalar_one() == 0
    assert refusal.value.code == "database_unreachable"


def test_who_waits_too_long_is_told_that_it_is_busy(postgres_url: str) -> None:
    store = Store(f"{postgres_url}?options=-c%20lock_timeout%3D1s", migrate=True)
    with store.transaction("first"), pytest.raises(UnreachableError) as refusal, store.transaction("second", scope="a"):
        pytest.fail("it did not wait")
    assert refusal.value.code == "database_busy"
    store.close()


def test_a_deadlock_ends_one_of_the_two_and_it_may_try_again(stores: tuple[Store, Store]) -> None:
    with stores[0].transaction("more") as tx:
        tx.execute(insert(blobs).values(digest="m", size=0, created_at=0.0))
    both, codes = threading.Barrier(2), list[str]()

    def cross(store: Store, scope: str, rows: str) -> None:
        try:
            with store.transaction("cross", scope=scope) as tx:
                tx.execute(update(blobs).where(blobs.c.digest == rows[0]).values(size=1))
                both.wait(120)
                tx.execute(update(blobs).where(blobs.c.digest == rows[1]).values(size=1))
        except UnreachableError as error:
            codes.append(error.code)

    threads = [
        threading.Thread(target=cross, args=(store, scope, rows))
        for store, scope, rows in zip(stores, "ab", ("nm", "mn"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == ["database_busy"]


def test_the_time_is_the_databases(database_url: str) -> None:
    store = Store(database_url, migrate=True)
    with store.reading() as tx:
        first = database_time(tx)
        time.sleep(0.02)
        assert first < database_time(tx) < first + 60, "it goes on within a transaction"
    store.close()


def test_connections_are_bounded(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PATIENCE", 1.0)
    store = Store(postgres_url, migrate=True, connections=2)
    with store.reading(), store.reading(), pytest.raises(UnreachableError) as refusal, store.reading():
        pytest.fail("there was a third connection")
    assert refusal.value.code == "database_busy"
    store.close()


@pytest.mark.parametrize("url", ["", "what", "mysql://u:secret@h/n", "postgresql+asyncpg://u:secret@h/n"])
def test_other_databases_are_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        make_engine(url)
    assert refusal.value.code == "database_url"
    assert "secret" not in f"{refusal.value} {refusal.value.why} {refusal.value.__cause__}"


def test_options_of_a_url_are_kept_beside_our_own(postgres_url: str) -> None:
    engine = make_engine(f"{postgres_url}?options=-c%20search_path%3Dsomewhere&connect_timeout=3")
    with engine.connect() as connection:
        assert connection.execute(text("SHOW search_path")).scalar_one() == "somewhere"
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "30s"
    engine.dispose()


def _cut(store: Store) -> None:
    """End every other connection to the database."""
    mine = "pid <> pg_backend_pid() AND datname = current_database()"
    with store.statements() as each:
        each.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")).all()


def test_a_connection_that_broke_while_nobody_used_it_is_replaced(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = stores
    counted = select(func.count()).select_from(blobs)
    with mine.reading() as first, mine.reading() as second:  # two connections
        assert [first.execute(counted).scalar_one(), second.execute(counted).scalar_one()] == [1, 1]
    _cut(other)
    with pytest.raises(UnreachableError) as told, mine.reading() as tx:  # it was used a moment ago, and is not tried
        tx.execute(counted)
    assert told.value.code == "database_unreachable"
    with mine.reading() as tx:  # who met it has had all of them replaced
        assert tx.execute(counted).scalar_one() == 1
    monkeypatch.setattr(engines, "IDLE", 0.0)
    _cut(other)
    with mine.reading() as tx:
        assert tx.execute(counted).scalar_one() == 1
    _cut(other)
    with mine.transaction("t") as tx:
        assert tx.execute(counted).scalar_one() == 1
