"""A node's requests are signed anew each time, and it waits for its coordinator instead of giving up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from foedus.domain.errors import AccessError, ConflictError, FoedusError, NotFoundError, UnreachableError
from foedus.node import transport
from foedus.node.transport import Link, passing
from foedus.wire.http import Retry, malformed, unreachable
from foedus.wire.messages import Poll, Work
from foedus.wire.signing import Signer
from tests.unit.client.peer import Answer, Peer, Request, problem, serving

SIGNER = Signer("nd_1", bytes(32))
POLL = Poll(boot="b" * 8, wait=0.0)
Result = TypeVar("Result")


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(Peer({"POST /node/poll": Answer(200, b"{}")})) as running:
        yield running


def talk(peer: Peer, what: Callable[[Link], Awaitable[Result]]) -> Result:
    async def talking() -> Result:
        async with Link(peer.url, SIGNER, Retry(base=0.001, cap=0.001)) as link:
            return await what(link)

    return asyncio.run(talking())


def poll(link: Link) -> Awaitable[Work]:
    return link.retried(lambda: link.post("/node/poll", POLL, Work))


def busy(_: Request, __: Answer) -> Answer:
    return Answer(503, b"", "text/html")


def too_many(_: Request, __: Answer) -> Answer:
    return Answer(429, b"", "text/html", {"Retry-After": "1"})


def lost(_: Request, answer: Answer) -> Answer:
    return Answer(answer.status, answer.body, answer.kind, answer.headers, cut=0)


def internal(_: Request, __: Answer) -> Answer:
    return problem(FoedusError("internal", "An error of its own."))


@pytest.mark.parametrize("fault", [busy, lost, internal])
def test_what_fails_in_passing_is_tried_again_signed_anew(peer: Peer, fault: Callable[..., Answer]) -> None:
    peer.faults = [fault, fault]
    assert talk(peer, poll) == Work()
    signatures = {request.headers["signature-input"] for request in peer.log}
    assert len(signatures) == len(peer.log) == 3


def test_a_pause_that_is_asked_for_is_kept(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    peer.faults = [too_many]
    monkeypatch.setattr(transport.asyncio, "sleep", sleep)
    talk(peer, poll)
    assert 0.5 < slept[0] <= 1.0


@pytest.mark.parametrize(
    "error",
    [
        ConflictError("lease_lost", "It is lost."),
        NotFoundError("assignment_unknown", "There is none."),
        AccessError("key_unknown", "Who?"),
    ],
)
def test_a_refusal_is_told_at_once_as_the_error_it_was(peer: Peer, error: FoedusError) -> None:
    peer.answers["POST /node/poll"] = problem(error)
    with pytest.raises(type(error)) as caught:
        talk(peer, poll)
    assert caught.value.code == error.code
    assert len(peer.log) == 1


def test_an_answer_that_is_not_the_message_is_malformed(peer: Peer) -> None:
    peer.answers["POST /node/poll"] = Answer(200, b'{"assignments": 3}')
    with pytest.raises(UnreachableError) as caught:
        talk(peer, poll)
    assert caught.value.code == "answer_malformed"


def test_an_endless_answer_is_cut_off(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REPLY_LIMIT", 1000)
    peer.answers["POST /node/poll"] = Answer(200, b" " * 2000)
    with pytest.raises(UnreachableError) as caught:
        talk(peer, poll)
    assert caught.value.code == "answer_malformed"


def test_the_wait_is_said_once_and_its_end_once(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    peer.faults = [busy] * 4
    with caplog.at_level(logging.INFO, "foedus.node.transport"):
        talk(peer, poll)
    assert ["waiting" in record.message for record in caplog.records] == [True, False]


def test_nobody_there_is_waited_for_and_a_wrong_peer_is_not() -> None:
    assert passing(unreachable("https://a.example", "refused"))
    assert passing(FoedusError("internal", "An error of its own."))
    assert passing(AccessError("signature_expired", "It is not fresh."))
    assert not passing(malformed("https://a.example", "HTML"))
    assert not passing(AccessError("key_unknown", "Who?"))


def test_models_and_keys_do_not_cross_a_network_without_tls() -> None:
    with pytest.raises(AccessError) as caught:
        Link("http://198.51.100.1", SIGNER)
    assert caught.value.code == "tls_required"


def test_a_coordinator_that_has_just_started_is_asked_again_in_the_next_second(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    peer.faults = [lambda _, __: problem(AccessError("signature_expired", "It is not fresh."))]
    monkeypatch.setattr(transport.asyncio, "sleep", sleep)
    talk(peer, poll)
    assert slept == [1.0]
