"""Client states are kept until a later one is current."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from foedus.node.checkpoint import States


def candidate(states: States, folder: Path, content: bytes, written: int) -> str:
    file = folder / "candidate"
    file.write_bytes(content)
    os.utime(file, (written, written))
    return states.keep("r_1", "c0000", file)


def test_a_candidate_is_kept_by_its_digest(tmp_path: Path) -> None:
    digest = candidate(states := States(tmp_path / "states"), tmp_path, b"one", 1)
    path = states.current("r_1", "c0000", digest)
    assert digest == hashlib.sha256(b"one").hexdigest()
    assert path is not None and path.read_bytes() == b"one"
    assert not (tmp_path / "candidate").exists()


def test_the_state_before_the_current_one_is_kept_and_older_ones_go(tmp_path: Path) -> None:
    states = States(tmp_path / "states")
    first, second, third, later = (candidate(states, tmp_path, b"%d" % at, at) for at in range(1, 5))
    assert states.current("r_1", "c0000", third) is not None
    assert states.current("r_1", "c0000", first) is None
    for digest in (second, third, later):
        assert states.current("r_1", "c0000", digest) is not None


def test_a_state_of_another_run_or_client_is_not_found(tmp_path: Path) -> None:
    digest = candidate(states := States(tmp_path / "states"), tmp_path, b"one", 1)
    assert states.current("r_2", "c0000", digest) is None
    assert states.current("r_1", "c0001", digest) is None


def test_a_state_that_is_not_whole_is_missing(tmp_path: Path) -> None:
    digest = candidate(states := States(tmp_path / "states"), tmp_path, b"one", 1)
    path = states.current("r_1", "c0000", digest)
    assert path is not None
    path.write_bytes(b"on")
    assert states.current("r_1", "c0000", digest) is None


def test_states_of_runs_that_ask_no_more_are_forgotten(tmp_path: Path) -> None:
    states = States(tmp_path / "states")
    old = candidate(states, tmp_path, b"one", 1)
    for place in (tmp_path / "states").iterdir():
        os.utime(place, (1, 1))
    (tmp_path / "candidate").write_bytes(b"two")
    new = states.keep("r_2", "c0000", tmp_path / "candidate")
    states.forget(older_than=time.time() - 1000)
    assert states.current("r_1", "c0000", old) is None
    assert states.current("r_2", "c0000", new) is not None
