"""What one process commits, others hear, once it is committed; after a broken connection everybody looks."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import insert, select

from foedus.store.notices import MISSED
from foedus.store.tables import blobs
from foedus.store.unit_of_work import Store, notice
from tests.postgres import Postgres


class Ear:
    """Hears, and waits for a name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._change = threading.Condition()
        self.heard: list[str] = []
        self.seen: list[int] = []
        store.on_commit(self._hear)

    def _hear(self, names: Collection[str]) -> None:
        with self._store.reading() as tx:
            count = len(tx.execute(select(blobs.c.digest)).all())
        with self._change:
            self.heard.extend(sorted(names))
            self.seen.append(count)
            self._change.notify_all()

    def wait(self, name: str, times: int = 1) -> None:
        with self._change:
            assert self._change.wait_for(lambda: self.heard.count(name) >= times, 120), (name, self.heard)


@contextmanager
def two(url: str) -> Iterator[tuple[Store, Store]]:
    stores = (Store(url, migrate=True), Store(url))
    try:
        yield stores
    finally:
        for store in stores:
            store.close()


def test_another_process_hears_what_was_committed_and_sees_it(postgres_url: str) -> None:
    with two(postgres_url) as (first, second):
        ears = Ear(first), Ear(second)
        for ear in ears:
            ear.wait(MISSED)
        try:
            with first.transaction("broken") as tx:
                notice(tx, "never")
                raise RuntimeError
        except RuntimeError:
            pass
        with first.transaction("good") as tx:
            tx.execute(insert(blobs).values(digest="a", size=1, created_at=0.0))
            notice(tx, "bell", "other")
        ears[1].wait("bell")
        ears[0].wait("bell")
        assert ears[1].heard == [MISSED, "bell", "other"]
        assert ears[1].seen[-1] == 1
        assert ears[0].heard == [MISSED, "bell", "other"], "its own are heard once"


def test_more_names_than_one_notification_holds(postgres_url: str) -> None:
    with two(postgres_url) as (first, second):
        ear = Ear(second)
        ear.wait(MISSED)
        names = {f"node nd_{number:020}" for number in range(1000)}
        with first.transaction("many") as tx:
            notice(tx, *names)
        ear.wait(max(names))
        assert set(ear.heard) == names | {MISSED}


def test_after_a_broken_connection_everybody_looks_once_and_hears_again(postgres: Postgres) -> None:
    url = postgres.fresh()
    with two(url) as (first, second):
        ear = Ear(second)
        ear.wait(MISSED)
        listening = "query LIKE 'LISTEN%' AND pid <> pg_backend_pid() AND datname = current_database()"
        broken = postgres.sql(
            f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {listening}", url.rpartition("/")[2]
        )
        assert broken == "1"
        ear.wait(MISSED, times=2)
        with first.transaction("good") as tx:
            notice(tx, "bell")
        ear.wait("bell")
