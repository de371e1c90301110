"""Blobs under their digests, in a folder and in a bucket: whole, verified when read, and never under another's name."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from foedus.domain.errors import FoedusError, IntegrityError, NotFoundError, StorageError, UsageError
from foedus.store import artifacts as module
from foedus.store.artifacts import Artifacts, hash_file, open_artifacts
from foedus.store.buckets import parse_bucket
from foedus.store.s3 import _connect

CONTENT = bytes(range(250)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()

Opener = Callable[[], Artifacts]


@pytest.fixture(params=["folder", "s3"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens one place for blobs, again and again, as processes one after another would."""
    url = "" if request.param == "folder" else request.getfixturevalue("s3_url")
    return lambda: open_artifacts(tmp_path, url)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_bytes_come_back_under_their_digest(opener: Opener) -> None:
    artifacts = opener()
    assert artifacts.put_bytes(CONTENT) == DIGEST
    assert artifacts.path(DIGEST).read_bytes() == CONTENT
    assert (artifacts.size(DIGEST), artifacts.has(DIGEST)) == (10_000, True)
    assert artifacts.put_bytes(CONTENT) == DIGEST
    assert opener().path(DIGEST).read_bytes() == CONTENT
    assert [digest for digest, _ in artifacts.kept()] == [DIGEST]


def test_a_blob_that_fails_leaves_nothing(opener: Opener, tmp_path: Path) -> None:
    artifacts = opener()
    with pytest.raises(RuntimeError), artifacts.writing(DIGEST) as writer:
        writer.write(CONTENT)
        raise RuntimeError
    with pytest.raises(IntegrityError) as refusal, artifacts.writing(DIGEST) as writer:
        writer.write(CONTENT[:-1])
    assert refusal.value.code == "digest_mismatch"
    assert not artifacts.has(DIGEST)
    assert _files(tmp_path) == []


def test_start_up_removes_half_written_files_and_keeps_parts(opener: Opener) -> None:
    artifacts = opener()
    left = artifacts.temporary()
    left.write_bytes(b"half")
    part = _part(artifacts, CONTENT)
    again = opener()
    again.recover()
    assert not left.exists()
    assert again.join([part], DIGEST) == len(CONTENT)


def _part(artifacts: Artifacts, content: bytes) -> str:
    file = artifacts.temporary()
    file.write_bytes(content)
    return artifacts.keep_part(file)


def test_parts_become_a_blob_whoever_kept_them(opener: Opener, tmp_path: Path) -> None:
    first, second = opener(), opener()
    parts = [_part(first, CONTENT[:4000]), _part(second, CONTENT[4000:9999]), _part(first, CONTENT[9999:])]
    assert not first.has(DIGEST)
    assert second.join(parts, DIGEST) == 10_000
    assert first.path(DIGEST).read_bytes() == CONTENT
    first.drop_parts([*parts, "unknown"])
    with pytest.raises(IntegrityError):
        opener().join(parts, DIGEST)
    assert _files(tmp_path / "partial") == []


def test_parts_with_other_bytes_are_refused(opener: Opener) -> None:
    artifacts = opener()
    parts = [_part(artifacts, CONTENT[:4001]), _part(artifacts, CONTENT[:5999])]
    with pytest.raises(IntegrityError) as refusal:
        artifacts.join(parts, DIGEST)
    assert refusal.value.code == "digest_mismatch"
    assert not artifacts.has(DIGEST)


def test_what_is_removed_is_gone_for_every_process(opener: Opener) -> None:
    artifacts = opener()
    artifacts.put_bytes(CONTENT)
    opener().remove(DIGEST)
    artifacts.remove(DIGEST)
    assert not artifacts.has(DIGEST)
    with pytest.raises(NotFoundError) as refusal:
        artifacts.path(DIGEST)
    assert refusal.value.code == "blob_unknown"
    assert list(artifacts.kept()) == []


def _flip(path: Path, at: int) -> None:
    """Flip one bit, and set the file's times back as far as anybody can."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("at", [0, 5000, 9999])
def test_case_12_a_flipped_bit_is_detected_when_the_blob_is_read(at: int, tmp_path: Path) -> None:
    """Case 12, in a folder: refused, set aside, and never given to anybody, also by a process that knew it whole."""
    artifacts = Artifacts(tmp_path)
    artifacts.put_bytes(CONTENT)
    path = artifacts.path(DIGEST)
    _flip(path, at)
    for reader in (artifacts, Artifacts(tmp_path)):
        with pytest.raises(FoedusError) as refusal:
            reader.path(DIGEST)
        assert refusal.value.code == ("blob_spoiled" if reader is artifacts else "blob_unknown")
        assert not reader.has(DIGEST)
    assert hash_file(next((tmp_path / "spoiled").iterdir())) != DIGEST
    assert artifacts.put_bytes(CONTENT) == DIGEST
    assert artifacts.path(DIGEST).read_bytes() == CONTENT


def test_case_12_what_was_proven_long_ago_is_proven_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(tmp_path)
    artifacts.put_bytes(CONTENT)
    hashed: list[Path] = []
    monkeypatch.setattr(module, "hash_file", lambda path: hashed.append(path) or DIGEST)
    artifacts.path(DIGEST)
    assert hashed == []
    monkeypatch.setattr(module, "PROVEN_SECONDS", -1.0)
    assert hashed == [] and artifacts.path(DIGEST) == hashed[0]


def test_case_12_a_flipped_bit_in_a_cache_is_fetched_anew(s3_url: str, tmp_path: Path) -> None:
    artifacts = open_artifacts(tmp_path, s3_url)
    artifacts.put_bytes(CONTENT)
    _flip(artifacts.path(DIGEST), 77)
    assert artifacts.path(DIGEST).read_bytes() == CONTENT


def test_case_12_a_flipped_bit_in_a_bucket_is_refused_and_set_aside(s3_url: str, tmp_path: Path) -> None:
    artifacts, other = (open_artifacts(tmp_path / name, s3_url) for name in "ab")
    artifacts.put_bytes(CONTENT)
    spoiled = bytearray(CONTENT)
    spoiled[1234] ^= 4
    _overwrite(s3_url, bytes(spoiled))
    with pytest.raises(StorageError) as refusal:
        other.path(DIGEST)
    assert refusal.value.code == "blob_spoiled"
    assert not other.has(DIGEST)
    assert other.put_bytes(CONTENT) == DIGEST
    assert open_artifacts(tmp_path / "c", s3_url).path(DIGEST).read_bytes() == CONTENT


def _overwrite(url: str, content: bytes) -> None:
    """Change the object behind foedus' back."""
    bucket = parse_bucket(url)
    key = f"{bucket.prefix}blobs/{DIGEST[:2]}/{DIGEST[2:]}"
    _connect(bucket)[0].put_object(Bucket=bucket.name, Key=key, Body=content)


@pytest.mark.parametrize("cut", range(0, 64 << 10, 4096))
def test_case_11_a_blob_cut_at_any_page_is_detected(cut: int, tmp_path: Path) -> None:
    """Case 11: cut at every 4 KiB boundary, the torn blob is refused; the one before is untouched."""
    artifacts = Artifacts(tmp_path)
    before, torn = artifacts.put_bytes(CONTENT), artifacts.put_bytes(os.urandom(64 << 10))
    with artifacts.path(torn).open("r+b") as file:
        file.truncate(cut)
    with pytest.raises(StorageError) as refusal:
        Artifacts(tmp_path).path(torn)
    assert refusal.value.code == "blob_spoiled"
    assert not artifacts.has(torn)
    assert artifacts.path(before).read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n", "é" * 64])
def test_no_name_becomes_a_path(name: str, tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "in")
    for ask in (artifacts.path, artifacts.has, artifacts.size, artifacts.remove, artifacts.link):
        with pytest.raises(UsageError) as refusal:
            ask(name)
        assert refusal.value.code == "digest_malformed"


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(tmp_path)

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("foedus.store.shelves._sync", full)
        with pytest.raises(StorageError) as refusal:
            artifacts.put_bytes(CONTENT)
    assert (refusal.value.code, _files(tmp_path)) == ("disk_full", [])
    assert artifacts.put_bytes(CONTENT) == DIGEST


def test_a_folder_can_be_written_or_not(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    assert artifacts.writable()
    (tmp_path / "partial").rmdir()
    assert not artifacts.writable()


def test_a_small_cache_forgets_what_nobody_holds(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket's blobs are kept on disk within the cache's room, but for those that somebody works with."""
    monkeypatch.setattr("foedus.store.cache.RECENT", -1.0)
    artifacts = open_artifacts(tmp_path, s3_url, room=25_000)
    digests = [artifacts.put_bytes(os.urandom(10_000)) for _ in range(4)]
    cache = tmp_path / "cache" / "0"
    assert len(_files(cache)) == 2
    with artifacts.keeping():
        paths = [artifacts.path(digest) for digest in digests]
        assert all(path.is_file() for path in paths)
    artifacts.put_bytes(CONTENT)
    assert len(_files(cache)) == 2
    assert all(hash_file(artifacts.path(digest)) == digest for digest in digests)


def test_processes_that_share_a_folder_have_a_cache_each(s3_url: str, tmp_path: Path) -> None:
    first, second = open_artifacts(tmp_path, s3_url), open_artifacts(tmp_path, s3_url)
    first.put_bytes(CONTENT)
    assert second.path(DIGEST) != first.path(DIGEST)
    del first
    assert DIGEST[:2] in str(second.path(DIGEST))


def test_a_link_is_given_where_the_setting_says_so(s3_url: str, tmp_path: Path) -> None:
    artifacts = open_artifacts(tmp_path, f"{s3_url}&transfer=presigned")
    artifacts.put_bytes(CONTENT)
    link = artifacts.link(DIGEST)
    assert link is not None and httpx.get(link, trust_env=False, headers={"Range": "bytes=1-3"}).content == CONTENT[1:4]
    assert open_artifacts(tmp_path, s3_url).link(DIGEST) is None
    assert Artifacts(tmp_path).link(DIGEST) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://bucket/x",
        "s3://",
        "s3://key:secret@bucket/x",
        "s3://bucket/x?style=odd",
        "s3://bucket/x?transfer=odd",
        "s3://bucket/x?endpoint=file:///x",
        "s3://bucket/x?secret=1",
    ],
)
def test_other_urls_are_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(FoedusError) as refusal:
        open_artifacts(tmp_path, url)
    assert refusal.value.code == "blobs_url"
    assert "secret@" not in str(refusal.value)


def test_a_bucket_that_is_not_there_or_does_not_answer_is_told(s3_url: str, tmp_path: Path) -> None:
    artifacts = open_artifacts(tmp_path, s3_url.replace("s3://test", "s3://none"))
    with pytest.raises(StorageError) as refusal:
        artifacts.put_bytes(CONTENT)
    assert refusal.value.code == "storage_refused"


def test_multipart_uploads_that_were_left_are_aborted(s3_url: str, tmp_path: Path) -> None:
    artifacts, bucket = open_artifacts(tmp_path, s3_url), parse_bucket(s3_url)
    client = _connect(bucket)[0]
    client.create_multipart_upload(Bucket=bucket.name, Key=f"{bucket.prefix}blobs/left")
    artifacts.tidy(0.0)
    assert len(client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]) == 1
    artifacts.tidy(time.time() + 3600)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket.name)


def test_a_large_blob_goes_up_and_down_in_pieces(s3_url: str, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 40
    digest = open_artifacts(tmp_path / "a", s3_url).put_bytes(content)
    assert open_artifacts(tmp_path / "b", s3_url).path(digest).read_bytes() == content
