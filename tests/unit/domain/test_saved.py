"""Saved models on disk: whole at every instant, read strictly, checked before they are used."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foedus.domain.errors import IntegrityError, StorageError
from foedus.domain.saved import SavedModel, check_folder, keep, model_of, read, stems

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.domain.test_saved import save

at, seen, mine = int(sys.argv[2]), [0], sys.argv[1]

def count(event, arguments):
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate") and mine in str(arguments):
        if seen[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen[0] += 1

sys.addaudithook(count)
save(Path(mine), 2, b"second model")
print(seen[0])
"""


def record(number: int, content: bytes) -> SavedModel:
    return SavedModel(
        run="r_1",
        client="c0000",
        checkpointer="pre-latest",
        when="pre",
        round=number,
        score=1.5,
        plan="0" * 64,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        at=0.0,
    )


def save(folder: Path, number: int, content: bytes) -> None:
    part = folder / "part"
    part.write_bytes(content)
    keep(folder / "client", "stem", record(number, content), part, _move)


def _move(source: Path, target: Path) -> None:
    source.replace(target)


def kept(folder: Path) -> bytes:
    found = read(folder / "client", "stem")
    assert found is not None
    return model_of(folder / "client", "stem", found).read_bytes()


def test_h8_killed_at_every_file_operation_the_one_before_or_the_new_one_is_whole(tmp_path: Path) -> None:
    """H8: SIGKILL before each operation on a file, in a real process; what is named by the record loads."""
    ends, at = [], 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        save(folder, 1, b"first model")
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(at)],
            env={**os.environ, "PYTHONPATH": f"src{os.pathsep}."},
            capture_output=True,
            text=True,
            check=False,
        )
        ends.append(kept(folder))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        save(folder, 3, b"third model")
        assert kept(folder) == b"third model"
        assert len(list((folder / "client").glob("*.safetensors"))) == 1
        at += 1
    assert at >= 5 and ends[0] == b"first model" and ends[-1] == b"second model"
    assert set(ends) == {b"first model", b"second model"}


def test_the_old_model_goes_when_the_new_one_is_there(tmp_path: Path) -> None:
    for number, content in enumerate([b"one", b"two", b"two"], 1):
        save(tmp_path, number, content)
    assert kept(tmp_path) == b"two" and stems(tmp_path / "client") == ["stem"]
    assert len(list((tmp_path / "client").iterdir())) == 2
    assert read(tmp_path / "client", "other") is None


def test_h1_a_folder_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    check_folder(tmp_path)
    for wrong in (tmp_path / "absent", Path(__file__)):
        with pytest.raises(StorageError) as caught:
            check_folder(wrong)
        assert caught.value.code == "saved_folder_unusable" and str(wrong) in caught.value.what


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 1}', b"\xff", b"{" * 100_000])
def test_a_record_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    save(tmp_path, 1, b"model")
    (tmp_path / "client" / "stem.json").write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        read(tmp_path / "client", "stem")
    assert caught.value.code == "saved_malformed"


def test_a_newer_format_and_another_model_are_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, b"model")
    found = read(tmp_path / "client", "stem")
    assert found is not None
    model_of(tmp_path / "client", "stem", found).write_bytes(b"other")
    with pytest.raises(IntegrityError) as caught:
        model_of(tmp_path / "client", "stem", found)
    assert caught.value.code == "saved_malformed"
    newer = json.dumps({**found.model_dump(), "format": 2, "more": True})
    (tmp_path / "client" / "stem.json").write_text(newer)
    with pytest.raises(IntegrityError) as caught:
        read(tmp_path / "client", "stem")
    assert "format 2" in caught.value.what
