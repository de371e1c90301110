"""Case 23: every node comes back within a second after a restart, and the coordinator is itself again soon."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.crowd import Node, crowd
from foedus.client.admin import create_join_token
from tests.federation import LocalFederation

ELEMENTS = 10


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path) as federation:
        federation.start_coordinator()
        yield federation


async def _restarted(federation: LocalFederation) -> None:
    """A coordinator that was killed and is back."""
    assert federation.coordinator is not None
    federation.coordinator.send_signal(signal.SIGKILL)
    federation.coordinator.wait()
    await asyncio.to_thread(federation.start_coordinator)


def _tokens(federation: LocalFederation, count: int) -> list[str]:
    with federation.connection() as connection:
        return [create_join_token(connection).token for _ in range(count)]


async def _few_come_back(federation: LocalFederation, count: int) -> None:
    async with crowd(federation.url, _tokens(federation, count), ELEMENTS) as nodes:
        await _restarted(federation)
        assert [work.assignments for work in await asyncio.gather(*(node.poll(0) for node in nodes))] == [()] * count


async def _many_come_back(federation: LocalFederation, count: int) -> list[float]:
    """All knock within a second of a restart; how long each one's poll took half a minute later."""
    async with crowd(federation.url, _tokens(federation, count), ELEMENTS) as nodes:
        await _restarted(federation)
        came = time.monotonic()

        async def back(at: int, node: Node) -> float:
            await asyncio.sleep(at / count)
            await node.poll(0)
            await asyncio.sleep(max(0.0, came + 30 + 10 * at / count - time.monotonic()))
            began = time.monotonic()
            await node.poll(0)
            return time.monotonic() - began

        return sorted(await asyncio.gather(*(back(at, node) for at, node in enumerate(nodes))))


def test_case_23_every_node_is_known_after_a_kill_and_nobody_has_to_join_again(federation: LocalFederation) -> None:
    """Case 23, at a small size: who comes back all at once is answered, if need be a little later."""
    asyncio.run(_few_come_back(federation, 30))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_case_23_500_nodes_reconnect_in_one_second_and_polls_are_quick_within_30(federation: LocalFederation) -> None:
    """Case 23: p99 of polls under 1 s within 30 s of the restart."""
    took = asyncio.run(_many_come_back(federation, 500))
    assert len(took) == 500
    assert took[len(took) * 99 // 100] < 1.0
