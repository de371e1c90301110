"""A bell wakes those who wait for it and nobody else; waiting costs no thread, and the end wakes all."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from pathlib import Path

import pytest

from foedus.coordinator.bells import CLIENTS, Bells, wait_for
from foedus.coordinator.live import Live
from foedus.store.artifacts import Artifacts
from foedus.store.unit_of_work import Store

FOREVER = 60.0


async def _waiting(bells: Bells, count: int) -> None:
    """Until so many listen."""
    while sum(len(listeners) for listeners in bells._listeners.values()) < count:
        await asyncio.sleep(0.001)


def test_what_is_there_already_is_found_without_a_ring() -> None:
    assert asyncio.run(wait_for(Bells(), "a", lambda: 7, FOREVER)) == 7


def test_time_runs_out() -> None:
    assert asyncio.run(wait_for(Bells(), "a", lambda: None, 0.01)) is None


def test_a_ring_from_a_thread_wakes_only_who_listens_to_it() -> None:
    bells, facts, looks = Bells(), dict[str, int](), {"a": 0, "b": 0}

    def look(name: str) -> int | None:
        looks[name] += 1
        return facts.get(name)

    async def scenario() -> tuple[int | None, int | None]:
        polls = [asyncio.create_task(wait_for(bells, name, lambda n=name: look(n), FOREVER)) for name in "ab"]
        await _waiting(bells, 2)
        while min(looks.values()) < 1:
            await asyncio.sleep(0.001)
        facts.update(a=1, b=2)
        threading.Thread(target=bells.ring, args=("a",)).start()
        first = await polls[0]
        assert looks["b"] == 1
        bells.ring("b")
        return first, await polls[1]

    assert asyncio.run(scenario()) == (1, 2)


def test_a_ring_while_looking_is_not_lost() -> None:
    bells, looks = Bells(), list[int]()

    def look() -> int | None:
        looks.append(1)
        if len(looks) == 1:
            bells.ring("a")
            return None
        return len(looks)

    assert asyncio.run(wait_for(bells, "a", look, FOREVER)) == 2


def test_the_end_wakes_all_of_a_thousand_that_wait_without_a_thread_each() -> None:
    bells, before = Bells(), threading.active_count()

    async def scenario() -> list[None]:
        polls = [asyncio.create_task(wait_for(bells, f"node {n}", lambda: None, FOREVER)) for n in range(1000)]
        await _waiting(bells, 1000)
        assert threading.active_count() - before < 100
        bells.close()
        return list(await asyncio.gather(*polls))

    assert asyncio.run(scenario()) == [None] * 1000
    assert not bells._listeners


def test_nothing_is_looked_for_on_behalf_of_who_is_gone() -> None:
    looks = list[int]()

    async def gone() -> bool:
        return True

    assert asyncio.run(wait_for(Bells(), "a", lambda: looks.append(1), FOREVER, gone)) is None
    assert looks == []


@pytest.mark.parametrize("name", ["renew", "token_used", "lead"])
def test_what_every_request_commits_wakes_no_run(name: str, tmp_path: Path) -> None:
    store, rung = Store(f"sqlite:///{tmp_path / 'a.db'}"), list[str]()
    live = Live(store, Artifacts(tmp_path))
    with closing(store), live.bells.listening(CLIENTS, lambda: rung.append(name)):
        with store.transaction(name):
            pass
        assert rung == []
        with store.transaction("hello"):
            pass
        assert rung == [name]
