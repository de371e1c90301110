"""What is told of work that goes on: at most a message in a second, bounded, and only what the policy lets leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from foedus.node import monitor as module
from foedus.node.frames import Stepped
from foedus.node.monitor import Monitor
from foedus.node.policy import Leave
from foedus.node.transport import Link
from foedus.wire.http import Retry
from foedus.wire.progress import POINTS, REPORTS, Noted, Point
from foedus.wire.public_keys import generate_key
from foedus.wire.signing import Signer
from tests.unit.client.peer import Answer, Peer, serving

KEPT = Answer(200, Noted(kept=1).model_dump_json().encode())
PATH = "POST /node/progress"


def stepped(step: int, **values: float) -> Stepped:
    return Stepped(steps=step, logged=(Point(step=step, steps=99, values=values),), cpu=step / 10, memory=step)


async def heard(peer: Peer, count: int) -> None:
    """Wait until so many messages have come."""
    async with asyncio.timeout(60):
        while len(peer.asked("POST")) < count:
            await asyncio.sleep(0.01)


def watched(peer: Peer, what: Callable[[Monitor], Awaitable[None]]) -> list[Any]:
    """The reports that reached the coordinator."""

    async def live() -> None:
        async with Link(peer.url, Signer("n_1", generate_key()), Retry(attempts=1)) as link:
            monitor = Monitor(link)
            sending = asyncio.create_task(monitor.send())
            try:
                await what(monitor)
            finally:
                sending.cancel()

    asyncio.run(live())
    return [json.loads(request.body)["reports"] for request in peer.asked("POST")]


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setattr(module, "EVERY", 0.1)
    with serving(Peer({PATH: KEPT})) as running:
        yield running


def test_what_is_logged_between_two_messages_goes_together(peer: Peer) -> None:
    async def work(monitor: Monitor) -> None:
        first, second = monitor.begin("a_1", Leave()).stepped, monitor.begin("a_2", Leave()).stepped
        for step in range(1, 4):
            first(stepped(step, loss=1 / step))
        second(stepped(7, loss=0.5, accuracy=1.0))
        await heard(peer, 1)
        first(stepped(4, loss=0.25))
        await heard(peer, 2)

    one, two = watched(peer, work)
    assert [(each["assignment"], [point["step"] for point in each["points"]]) for each in one] == [
        ("a_1", [1, 2, 3]),
        ("a_2", [7]),
    ]
    assert one[1]["points"][0]["values"] == {"loss": 0.5, "accuracy": 1.0}
    assert [(each["assignment"], each["points"][0]["step"], each["cpu"]) for each in two] == [("a_1", 4, 0.4)]


def test_metrics_that_may_not_leave_do_not(peer: Peer) -> None:
    async def work(monitor: Monitor) -> None:
        monitor.begin("a_1", Leave(metrics=[])).stepped(stepped(1, loss=0.5))
        monitor.begin("a_2", Leave(metrics=["acc*"])).stepped(stepped(1, loss=0.5, accuracy=0.25))
        await heard(peer, 1)

    (told,) = watched(peer, work)
    assert [(each["assignment"], each["points"][0]["values"]) for each in told] == [("a_2", {"accuracy": 0.25})]


def test_what_is_gathered_between_two_messages_is_bounded(peer: Peer) -> None:
    async def work(monitor: Monitor) -> None:
        for number in range(3 * REPORTS):
            hear = monitor.begin(f"a_{number}", Leave()).stepped
            for step in range(1, 2 * POINTS):
                hear(stepped(step, loss=0.5))
        await heard(peer, 1)

    (told,) = watched(peer, work)
    assert len(told) == REPORTS
    assert all(len(each["points"]) == POINTS for each in told)
    assert told[-1]["points"][-1]["step"] == 2 * POINTS - 1


def test_a_coordinator_that_is_away_stops_nothing(peer: Peer) -> None:
    peer.answers[PATH] = [Answer(503, b"{}"), KEPT]

    async def work(monitor: Monitor) -> None:
        hear = monitor.begin("a_1", Leave()).stepped
        hear(stepped(1, loss=0.5))
        await heard(peer, 1)
        hear(stepped(2, loss=0.5))
        await heard(peer, 2)

    told = watched(peer, work)
    assert [each[0]["points"][0]["step"] for each in told] == [1, 2]


def test_what_cannot_be_a_report_is_dropped_and_the_next_one_is_sent(peer: Peer) -> None:
    async def work(monitor: Monitor) -> None:
        monitor.begin("a_1", Leave()).stepped(stepped(1, loss=0.5).model_copy(update={"cpu": 1e300}))
        while monitor._open:
            await asyncio.sleep(0.01)
        monitor.begin("a_2", Leave()).stepped(stepped(2, loss=0.5))
        await heard(peer, 1)

    (told,) = watched(peer, work)
    assert [each["assignment"] for each in told] == ["a_2"]


def test_what_a_plan_prints_leaves_where_the_policy_says_so_and_as_much_as_it_says(peer: Peer) -> None:
    async def work(monitor: Monitor) -> None:
        monitor.begin("a_1", Leave()).printed(b"kept here\n")
        printed = monitor.begin("a_2", Leave(logs=True, log_bytes=40)).printed
        printed(b"first\nse")
        printed(b"cond\x1b[2J\n" + b"x" * 30 + b"\n")
        printed(b"too much\n")
        monitor.begin("a_3", Leave(logs=True)).printed(b"x" * 2000 + b"\n")
        await heard(peer, 1)

    (told,) = watched(peer, work)
    assert [(each["assignment"], each["lines"]) for each in told] == [
        ("a_2", ["first", "second?[2J"]),
        ("a_3", ["x" * 500]),
    ]
