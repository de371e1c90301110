"""Nonces that replicas share: used once, whichever of them sees it first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from foedus.store import nonces
from foedus.store.nonces import KEEP, SharedNonces, used_nonces
from foedus.store.unit_of_work import Store


def test_case_49_a_nonce_is_used_once_and_per_key(database_url: str) -> None:
    store = Store(database_url, migrate=True)
    memory = SharedNonces(store)
    assert memory.use("nd_1", "a", 0, 1000.0)
    assert not memory.use("nd_1", "a", 0, 1000.0)
    assert memory.use("nd_2", "a", 0, 1000.0)
    assert memory.use("nd_1", "b", 0, 1000.0)
    store.close()


def test_case_49_of_replicas_that_see_one_nonce_at_once_one_takes_it(postgres_url: str) -> None:
    stores = [Store(postgres_url, migrate=True), *(Store(postgres_url) for _ in range(2))]
    replicas, start = [SharedNonces(store) for store in stores], threading.Barrier(6)

    def replay(number: int) -> list[bool]:
        start.wait(120)
        return [replicas[number % 3].use("nd_1", f"nonce-{which}", 0, 1000.0) for which in range(20)]

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(replay, range(6)))
    assert [sum(column) for column in zip(*taken, strict=True)] == [1] * 20
    for store in stores:
        store.close()


def test_nonces_are_forgotten_when_their_requests_are_too_old(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nonces, "SWEEP", -1.0)
    store = Store(database_url, migrate=True)
    memory = SharedNonces(store)
    for number in range(10):
        assert memory.use("nd_1", f"n{number}", 0, 1000.0)
    assert memory.use("nd_1", "late", 0, 1000.0 + KEEP + 1)
    with store.reading() as tx:
        assert tx.execute(select(func.count()).select_from(used_nonces)).scalar_one() == 1
    store.close()
