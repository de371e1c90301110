"""Blobs reach a node whole or not at all, resume where they broke off, and stay within their room."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from foedus.domain.errors import IntegrityError, NotFoundError, TooLargeError
from foedus.node import blobs
from foedus.node.blobs import Cache, upload
from foedus.node.transport import Link
from foedus.wire.http import Retry
from foedus.wire.signing import Signer
from tests.unit.client.peer import Answer, Peer, Request, serving

CONTENT = bytes(range(256)) * 10
DIGEST = hashlib.sha256(CONTENT).hexdigest()
Result = TypeVar("Result")


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(Peer()) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 10_000, 5_000)


def talk(peer: Peer, what: Callable[[Link], Awaitable[Result]]) -> Result:
    async def talking() -> Result:
        async with Link(peer.url, Signer("nd_1", bytes(32)), Retry(base=0.001, cap=0.001)) as link:
            return await what(link)

    return asyncio.run(talking())


def fetch(peer: Peer, cache: Cache, digest: str = DIGEST) -> Path:
    return talk(peer, lambda link: cache.fetch(link, digest, lambda: None))


def put(peer: Peer, file: Path) -> tuple[str, int]:
    moves: list[None] = []
    return talk(peer, lambda link: upload(link, file, lambda: moves.append(None))), len(moves)


def lost(_: Request, answer: Answer) -> Answer:
    return Answer(answer.status, answer.body, answer.kind, answer.headers, cut=0)


def halved(_: Request, answer: Answer) -> Answer:
    return Answer(answer.status, answer.body, answer.kind, answer.headers, cut=len(answer.body) // 2)


def test_a_blob_is_fetched_once(peer: Peer, cache: Cache) -> None:
    peer.blobs[DIGEST] = CONTENT
    assert fetch(peer, cache).read_bytes() == CONTENT
    assert fetch(peer, cache).read_bytes() == CONTENT
    assert len(peer.log) == 1


def test_a_broken_download_goes_on_where_it_was(peer: Peer, cache: Cache) -> None:
    peer.blobs[DIGEST], peer.faults = CONTENT, [halved, halved]
    assert fetch(peer, cache).read_bytes() == CONTENT
    assert [request.headers.get("range") for request in peer.log] == [None, "bytes=1280-", "bytes=1920-"]


def test_what_was_whole_before_a_crash_is_not_fetched_again(peer: Peer, cache: Cache, tmp_path: Path) -> None:
    peer.blobs[DIGEST] = CONTENT
    (tmp_path / "cache" / f"{DIGEST}.part").write_bytes(CONTENT)
    assert fetch(peer, cache).read_bytes() == CONTENT


def test_rubbish_left_by_a_crash_is_thrown_away(peer: Peer, cache: Cache, tmp_path: Path) -> None:
    peer.blobs[DIGEST] = CONTENT
    (tmp_path / "cache" / f"{DIGEST}.part").write_bytes(b"x" * 3000)
    assert fetch(peer, cache).read_bytes() == CONTENT


def test_other_bytes_than_the_digest_s_are_refused(peer: Peer, cache: Cache, tmp_path: Path) -> None:
    peer.blobs[DIGEST] = b"other"
    with pytest.raises(IntegrityError) as caught:
        fetch(peer, cache)
    assert caught.value.code == "blob_corrupt"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_blob_over_the_limit_is_cut_off(peer: Peer, cache: Cache) -> None:
    content = b"x" * 5001
    digest = hashlib.sha256(content).hexdigest()
    peer.blobs[digest] = content
    with pytest.raises(TooLargeError):
        fetch(peer, cache, digest)


def test_a_blob_that_is_not_there_is_said_so(peer: Peer, cache: Cache) -> None:
    with pytest.raises(NotFoundError):
        fetch(peer, cache)


def test_a_name_that_is_no_digest_is_refused(peer: Peer, cache: Cache) -> None:
    with pytest.raises(IntegrityError):
        fetch(peer, cache, "../../key")
    assert peer.log == []


def test_what_was_not_used_for_the_longest_makes_room(peer: Peer, cache: Cache, tmp_path: Path) -> None:
    contents = [bytes([number]) * 4000 for number in range(4)]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    peer.blobs = dict(zip(digests, contents, strict=True))
    for number in (0, 1):
        os.utime(fetch(peer, cache, digests[number]), (number, number))
    fetch(peer, cache, digests[0])
    fetch(peer, cache, digests[2])
    assert {file.name for file in (tmp_path / "cache").iterdir()} == {digests[0], digests[2]}


def test_what_is_needed_stays_even_where_there_is_no_room(cache: Cache, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "cache" / str(number)).write_bytes(b"x" * 6000)
    cache.clean({"0", "1"})
    assert {file.name for file in (tmp_path / "cache").iterdir()} == {"0", "1"}


def test_a_small_file_goes_up_in_one_piece(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "update").write_bytes(CONTENT)
    assert put(peer, tmp_path / "update") == (DIGEST, 1)
    assert peer.blobs == {DIGEST: CONTENT}
    assert [request.method for request in peer.log] == ["PUT"]


def test_a_large_file_goes_up_in_chunks(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK", 1000)
    (tmp_path / "update").write_bytes(CONTENT)
    assert put(peer, tmp_path / "update") == (DIGEST, 4)
    assert [request.headers["upload-offset"] for request in peer.asked("PATCH")] == ["0", "1000", "2000"]
    assert peer.blobs == {DIGEST: CONTENT}


def test_a_large_file_that_is_there_is_not_sent(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK", 1000)
    peer.blobs[DIGEST] = CONTENT
    (tmp_path / "update").write_bytes(CONTENT)
    put(peer, tmp_path / "update")
    assert [request.method for request in peer.log] == ["HEAD"]


@pytest.mark.parametrize("broken", [2, 3, 4])
def test_an_upload_goes_on_where_it_broke_off(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    monkeypatch.setattr(blobs, "CHUNK", 1000)
    (tmp_path / "update").write_bytes(CONTENT)
    peer.faults = [*[lambda _, answer: answer] * broken, lost]
    assert put(peer, tmp_path / "update")[0] == DIGEST
    assert peer.blobs == {DIGEST: CONTENT}
    assert len(peer.asked("PATCH")) == 3


def test_a_small_blob_that_came_within_a_message_is_not_fetched(peer: Peer, cache: Cache) -> None:
    cache.keep(DIGEST, CONTENT)
    cache.keep(DIGEST, CONTENT)
    assert fetch(peer, cache).read_bytes() == CONTENT
    assert peer.log == []


def test_one_that_is_not_what_it_is_called_is_fetched(peer: Peer, cache: Cache) -> None:
    peer.blobs[DIGEST] = CONTENT
    cache.keep(DIGEST, CONTENT + b"x")
    assert fetch(peer, cache).read_bytes() == CONTENT
    assert len(peer.log) == 1
