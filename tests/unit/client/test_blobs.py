"""Blobs arrive whole or not at all, and what was sent before is not sent again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from foedus.client import blobs
from foedus.client.blobs import download, upload
from foedus.client.http import Connection
from foedus.domain.errors import (
    IntegrityError,
    NotFoundError,
    StorageError,
    TooLargeError,
    UnreachableError,
    UsageError,
)
from tests.unit.client.peer import Answer, Peer, Request

CONTENT = bytes(range(256)) * 10
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK", 1000)


def passed(_: Request, answer: Answer) -> Answer:
    return answer


def lost(_: Request, answer: Answer) -> Answer:
    return Answer(answer.status, answer.body, answer.kind, answer.headers, cut=0)


def halved(_: Request, answer: Answer) -> Answer:
    return Answer(answer.status, answer.body, answer.kind, answer.headers, cut=len(answer.body) // 2)


def busy(_: Request, __: Answer) -> Answer:
    return Answer(503, b"", "text/html")


def test_a_small_blob_goes_up_in_one_piece(peer: Peer, connection: Connection) -> None:
    assert upload(connection, CONTENT) == DIGEST
    assert peer.blobs == {DIGEST: CONTENT}
    assert [request.method for request in peer.log] == ["HEAD", "PUT"]


def test_what_is_there_is_not_sent_again(peer: Peer, connection: Connection) -> None:
    peer.blobs[DIGEST] = CONTENT
    assert upload(connection, CONTENT) == DIGEST
    assert [request.method for request in peer.log] == ["HEAD"]


def test_a_file_goes_up(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(CONTENT)
    assert upload(connection, tmp_path / "model") == DIGEST
    assert peer.blobs[DIGEST] == CONTENT


def test_a_missing_file_is_told(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        upload(connection, tmp_path / "none")
    assert caught.value.code == "file_unreadable"


@pytest.mark.usefixtures("small_chunks")
def test_a_large_blob_goes_up_in_chunks(peer: Peer, connection: Connection) -> None:
    assert upload(connection, CONTENT) == DIGEST
    assert peer.blobs == {DIGEST: CONTENT}
    assert [request.headers["upload-offset"] for request in peer.asked("PATCH")] == ["0", "1000", "2000"]


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_whose_reply_was_lost_is_not_sent_again(peer: Peer, connection: Connection) -> None:
    peer.faults = [passed, passed, lost]
    upload(connection, CONTENT)
    assert peer.blobs == {DIGEST: CONTENT}
    assert [request.headers["upload-offset"] for request in peer.asked("PATCH")] == ["0", "1000", "2000"]


@pytest.mark.usefixtures("small_chunks")
def test_the_last_chunk_s_reply_may_be_lost(peer: Peer, connection: Connection) -> None:
    peer.faults = [passed] * 4 + [lost]
    assert upload(connection, CONTENT) == DIGEST
    assert len(peer.asked("PATCH")) == 3


@pytest.mark.usefixtures("small_chunks")
def test_an_upload_that_gets_nowhere_ends(peer: Peer, connection: Connection) -> None:
    def unavailable(request: Request, answer: Answer) -> Answer:
        if request.method == "PATCH":
            _, _, content = peer.uploads["u_1"]
            content.clear()
            return Answer(503, b"", "text/html")
        return answer

    peer.faults = [unavailable] * 100
    with pytest.raises(UnreachableError):
        upload(connection, CONTENT)
    assert len(peer.asked("PATCH")) == 4


@pytest.mark.usefixtures("small_chunks")
def test_an_upload_that_stays_where_it_is_ends(peer: Peer, connection: Connection) -> None:
    def stuck(request: Request, answer: Answer) -> Answer:
        if request.method == "PATCH":
            return Answer(body=answer.body.replace(b'"offset": 1000', b'"offset": 0'))
        return answer

    peer.faults = [stuck] * 100
    with pytest.raises(UnreachableError) as caught:
        upload(connection, CONTENT)
    assert caught.value.code == "answer_malformed"


def test_a_blob_comes_down(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    peer.blobs[DIGEST] = CONTENT
    target = tmp_path / "new" / "model"
    assert download(connection, DIGEST, target) == target
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_broken_download_goes_on_where_it_was(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    peer.blobs[DIGEST] = CONTENT
    peer.faults = [halved, busy, halved]
    download(connection, DIGEST, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == CONTENT
    ranges = [request.headers.get("range") for request in peer.log]
    assert ranges == [None, "bytes=1280-", "bytes=1280-", "bytes=1920-"]


def test_another_process_goes_on_with_the_part(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    peer.blobs[DIGEST] = CONTENT
    (tmp_path / f".model.{DIGEST[:16]}.part").write_bytes(CONTENT[:100])
    download(connection, DIGEST, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == CONTENT
    assert peer.log[0].headers["range"] == "bytes=100-"


def test_a_whole_part_needs_no_bytes(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / f".model.{DIGEST[:16]}.part").write_bytes(CONTENT)
    download(connection, DIGEST, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == CONTENT
    assert not peer.log


def test_a_part_that_is_too_long_is_thrown_away(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    peer.blobs[DIGEST] = CONTENT
    (tmp_path / f".model.{DIGEST[:16]}.part").write_bytes(CONTENT + b"more")
    download(connection, DIGEST, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    peer.blobs[DIGEST] = CONTENT
    (tmp_path / f".model.{DIGEST[:16]}.part").write_bytes(CONTENT[:100])
    peer.faults = [lambda request, answer: Answer(200, CONTENT)]
    download(connection, DIGEST, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"x", b""])
def test_other_bytes_are_refused_and_nothing_is_left(
    peer: Peer, connection: Connection, tmp_path: Path, wrong: bytes
) -> None:
    peer.blobs[DIGEST] = wrong
    with pytest.raises(IntegrityError) as caught:
        download(connection, DIGEST, tmp_path / "model")
    assert caught.value.code == "blob_corrupt"
    assert not list(tmp_path.iterdir())


def test_a_failed_download_leaves_an_older_file_as_it_is(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"older")
    with pytest.raises(NotFoundError):
        download(connection, DIGEST, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == b"older"


def test_a_blob_over_the_limit_is_refused(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    peer.blobs[DIGEST] = CONTENT
    with pytest.raises(TooLargeError):
        download(connection, DIGEST, tmp_path / "model", limit=len(CONTENT) - 1)
    assert not (tmp_path / "model").exists()


def test_a_target_that_cannot_be_written_is_told(peer: Peer, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        download(connection, DIGEST, tmp_path / "file" / "model")
    assert caught.value.code == "file_unwritable"


def test_a_full_disk_is_told(
    peer: Peer, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    peer.blobs[DIGEST] = CONTENT
    monkeypatch.setattr(blobs, "_receive", full)
    with pytest.raises(StorageError) as caught:
        download(connection, DIGEST, tmp_path / "model")
    assert caught.value.code == "disk_full"


@pytest.mark.parametrize("digest", ["", "../../x", DIGEST.upper(), DIGEST + "0"])
def test_what_is_no_digest_never_gets_into_a_path(connection: Connection, tmp_path: Path, digest: str) -> None:
    with pytest.raises(UsageError) as caught:
        download(connection, digest, tmp_path / "model")
    assert caught.value.code == "digest_malformed"
