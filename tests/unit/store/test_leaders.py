"""One leader at a time: a lease by the database's clock, and an epoch that every change of leaders raises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from foedus.store.leaders import claim, claimable, leader_of, leaders, release, renew
from foedus.store.tables import runs
from foedus.store.unit_of_work import Store

RUN: dict[str, Any] = dict.fromkeys(("name", "plan", "plan_blob", "author", "initial_model"), "x")
RUN |= {"spec": {}, "manifest": {}, "data": {}, "parts": {}, "created_at": 0.0, "updated_at": 0.0}


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    made = Store(database_url, migrate=True)
    with made.transaction("run") as tx:
        for name, status in (("r1", "running"), ("r2", "waiting"), ("r3", "completed")):
            tx.execute(insert(runs).values(**RUN, id=name, status=status))
    yield made
    made.close()


def _claim(store: Store, replica: str, seconds: float = 60.0, *, alone: bool = False) -> int | None:
    with store.transaction("claim", scope="r1") as tx:
        return claim(tx, "r1", replica, seconds, alone=alone)


def _claimable(store: Store, replica: str) -> list[str]:
    with store.reading() as tx:
        return [run for run, _ in claimable(tx, replica, ["running", "waiting"], alone=False)]


def test_a_lease_keeps_others_out_until_it_ends(store: Store) -> None:
    assert _claimable(store, "b") == ["r1", "r2"]
    assert _claim(store, "a") == 1
    assert (_claimable(store, "a"), _claimable(store, "b")) == (["r1", "r2"], ["r2"])
    assert _claim(store, "b") is None
    with store.transaction("late") as tx:
        tx.execute(update(leaders).values(until=leaders.c.until - 61.0))
    assert _claimable(store, "b") == ["r1", "r2"]
    assert _claim(store, "b") == 2
    assert _claim(store, "a") is None


def test_the_one_that_leads_may_begin_again_under_a_new_epoch(store: Store) -> None:
    assert [_claim(store, "a"), _claim(store, "a")] == [1, 2]


def test_who_is_alone_waits_for_nobody(store: Store) -> None:
    assert _claim(store, "a") == 1
    assert _claim(store, "b", alone=True) == 2


def test_a_renewed_lease_goes_on_and_a_lost_one_stays_lost(store: Store) -> None:
    _claim(store, "a", seconds=-1.0)
    with store.transaction("lead") as tx:
        renew(tx, "a", 60.0)
    assert _claim(store, "b") is None
    with store.transaction("late") as tx:
        tx.execute(update(leaders).values(until=0.0))
    assert _claim(store, "b") == 2
    with store.transaction("lead") as tx:
        renew(tx, "a", 60.0)
        assert leader_of(tx, "r1") == "b"


def test_a_run_that_is_left_is_free_at_once(store: Store) -> None:
    _claim(store, "a")
    with store.transaction("leave") as tx:
        release(tx, "a")
        assert tx.execute(select(leaders)).all() == []
    assert _claim(store, "b") == 2


def test_nobody_leads_a_run_that_is_not_there(store: Store) -> None:
    with store.transaction("claim") as tx:
        assert claim(tx, "r9", "a", 1.0, alone=False) is None
