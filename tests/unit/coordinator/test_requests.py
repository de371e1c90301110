"""Every request has an id, an error that nobody foresaw is told with it, and a crowd is told to come back."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
from anyio import to_thread
from starlette.types import Receive, Scope, Send

from foedus.cli.logs import JsonFormatter
from foedus.coordinator import requests
from foedus.coordinator.requests import Requests
from foedus.domain.spans import about

Answers = list[httpx.Response]


async def _fine(scope: Scope, receive: Receive, send: Send) -> None:
    text = str(about()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


async def _broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("a secret path /home/ana")


def _ask(app: object, path: str = "/api/v1/runs", **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Requests(app))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def test_a_request_has_an_id_that_goes_back_and_into_the_log() -> None:
    reply = _ask(_fine, **{"X-Request-Id": "from-a-proxy-0001"})
    assert reply.headers["x-request-id"] == "from-a-proxy-0001"
    assert "'request': 'from-a-proxy-0001'" in reply.text


@pytest.mark.parametrize("given", ["short", "x" * 65, "with space in it", "new\tline0000"])
def test_an_id_that_is_not_plain_is_replaced(given: str) -> None:
    assert len(_ask(_fine, **{"X-Request-Id": given}).headers["x-request-id"]) == 16
    assert _ask(_fine).headers["x-request-id"] != _ask(_fine).headers["x-request-id"]


def test_what_nobody_foresaw_is_told_with_the_requests_id_alone(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(JsonFormatter().format(record))  # type: ignore[method-assign]
    requests.log.addHandler(handler)
    try:
        reply = _ask(_broken)
    finally:
        requests.log.removeHandler(handler)
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    assert "ana" not in reply.text
    assert reply.headers["x-request-id"] in reply.json()["fix"]
    assert any("ZeroDivisionError" in line and reply.headers["x-request-id"] in line for line in lines)


def test_case_23_where_too_many_wait_newcomers_come_back_at_times_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 23: Retry-After with jitter; who asks whether the process lives is still answered."""
    monkeypatch.setattr(requests, "_backlog", lambda: requests.BACKLOG)
    replies = [_ask(_fine) for _ in range(40)]
    assert {(reply.status_code, reply.json()["code"]) for reply in replies} == {(503, "coordinator_busy")}
    assert len({reply.headers["retry-after"] for reply in replies}) > 2
    assert _ask(_fine, "/healthz").status_code == 200


def test_the_backlog_is_that_of_the_worker_threads() -> None:
    async def crowd() -> int:
        tokens = to_thread.current_default_thread_limiter().total_tokens
        barrier = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            asyncio.run_coroutine_threadsafe(barrier.wait(), loop).result(120)

        tasks = [asyncio.create_task(to_thread.run_sync(wait)) for _ in range(int(tokens) + 7)]
        await asyncio.sleep(0.2)
        found = requests._backlog()
        barrier.set()
        await asyncio.gather(*tasks)
        return found

    assert asyncio.run(crowd()) == 7
