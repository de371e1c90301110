"""Blobs are whole or not there; uploads go on where they stopped."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from foedus.domain.errors import ConflictError, FoedusError, IntegrityError, NotFoundError, StorageError, UsageError
from foedus.store.artifacts import Artifacts, hash_file

CONTENT = b"0123456789" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_blob_is_found_under_its_digest(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    assert artifacts.put_bytes(CONTENT) == DIGEST
    assert artifacts.path(DIGEST).read_bytes() == CONTENT
    assert (artifacts.size(DIGEST), artifacts.has(DIGEST)) == (10_000, True)
    assert artifacts.put_bytes(CONTENT) == DIGEST
    assert len(_files(tmp_path)) == 1


def test_a_blob_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    with pytest.raises(RuntimeError), artifacts.writing(DIGEST) as writer:
        writer.write(CONTENT[:5000])
        raise RuntimeError
    with pytest.raises(IntegrityError) as refusal, artifacts.writing(DIGEST) as writer:
        writer.write(CONTENT[:5000])
    assert refusal.value.code == "digest_mismatch"
    assert _files(tmp_path) == []


def test_what_a_dead_process_left_is_removed_but_uploads_stay(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    artifacts.temporary().write_bytes(b"half")
    with artifacts.appending("up_1", 0) as file:
        file.write(b"half")
    Artifacts(tmp_path).recover()
    assert [path.name for path in _files(tmp_path)] == ["up_1"]


def test_an_upload_is_resumed_and_becomes_a_blob_once(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    for start in range(0, 10_000, 2500):
        assert artifacts.offset("up_1") == start
        with artifacts.appending("up_1", start) as file:
            file.write(CONTENT[start : start + 2500])
    artifacts.finish("up_1", DIGEST)
    artifacts.finish("up_1", DIGEST)
    assert artifacts.path(DIGEST).read_bytes() == CONTENT


def test_of_two_that_append_to_an_upload_the_later_one_writes(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    with artifacts.appending("up_1", 0) as first:
        first.write(CONTENT[:4000])
        with artifacts.appending("up_1", 4000) as second:
            with pytest.raises(ConflictError) as refusal:
                first.write(b"x")
            first.take_back()
            second.write(CONTENT[4000:])
    assert refusal.value.code == "upload_taken_over"
    artifacts.finish("up_1", DIGEST)
    artifacts.verify(DIGEST)


def test_nobody_writes_to_an_upload_that_is_finished(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    with artifacts.appending("up_1", 0) as writer:
        writer.write(CONTENT)
        artifacts.finish("up_1", DIGEST)
        with pytest.raises(ConflictError):
            writer.write(b"x")
        writer.take_back()
    artifacts.verify(DIGEST)


def test_what_a_writer_takes_back_is_gone(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    for offset, chunk in ((0, b"kept"), (4, b"taken")):
        with artifacts.appending("up_1", offset) as writer:
            writer.write(chunk)
            if chunk == b"taken":
                writer.take_back()
    assert artifacts.offset("up_1") == 4


def test_an_upload_that_nobody_went_on_with_is_removed_in_the_end(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    for upload in ("up_old", "up_new"):
        with artifacts.appending(upload, 0) as writer:
            writer.write(b"half")
    os.utime(tmp_path / "partial" / "up_old", (1, 1))
    artifacts.recover()
    assert [path.name for path in _files(tmp_path)] == ["up_new"]


def test_a_chunk_at_another_place_is_refused(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    for offset in (1, 2**60):
        with pytest.raises(ConflictError) as refusal, artifacts.appending("up_1", offset):
            pass
        assert refusal.value.code == "upload_offset"


def test_an_upload_whose_bytes_lie_is_removed(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    with artifacts.appending("up_1", 0) as file:
        file.write(CONTENT[:-1] + b"x")
    with pytest.raises(IntegrityError):
        artifacts.finish("up_1", DIGEST)
    assert _files(tmp_path) == []


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    artifacts.put_bytes(CONTENT)
    artifacts.verify(DIGEST)
    path = artifacts.path(DIGEST)
    path.write_bytes(b"1" + CONTENT[1:])
    with pytest.raises(IntegrityError):
        artifacts.verify(DIGEST)


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 10_000, "a" * 63 + "\n", "/" * 64]
)
def test_no_received_name_becomes_a_path(name: str, tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "in")
    with pytest.raises(UsageError):
        artifacts.path(name)
    with pytest.raises(NotFoundError):
        artifacts.offset(name)
    assert _files(tmp_path) == []


def test_an_unknown_blob_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as refusal:
        Artifacts(tmp_path).path(DIGEST)
    assert refusal.value.code == "blob_unknown"


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as refusal:
        artifacts.put_bytes(CONTENT)
    assert refusal.value.code == "disk_full"
    assert _files(tmp_path) == []
    monkeypatch.undo()
    assert artifacts.put_bytes(CONTENT) == DIGEST


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_write_to_a_full_device_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(tmp_path)
    (artifacts.temporary().parent / "up_1").symlink_to("/dev/full")
    with pytest.raises(FoedusError) as refusal, artifacts.appending("up_1", 0) as file:
        file.write(CONTENT)
    assert refusal.value.code == "disk_full"


def test_hash_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    assert hash_file(tmp_path / "f") == DIGEST
