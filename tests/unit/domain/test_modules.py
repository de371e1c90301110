"""A module is loaded once, and garbage is looked for again afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from foedus.domain.modules import Looked, load, settled, uncollected


@pytest.mark.parametrize("body", ["", "raise ValueError"])
def test_garbage_is_looked_for_again_whether_it_can_be_imported_or_not(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loaded_here.py").write_text(f"import gc\nlooking = gc.isenabled()\n{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loaded_here", raising=False)
    if body:
        with pytest.raises(ValueError):
            load("loaded_here")
    else:
        assert not load("loaded_here").looking
    assert gc.isenabled()


def test_what_is_known_already_is_given_back_and_nothing_is_kept_from_the_collector() -> None:
    load("foedus.domain.errors")
    before = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]
    assert load("foedus.domain.errors") is sys.modules["foedus.domain.errors"]
    assert gc.get_freeze_count() <= before, "what was kept before may have gone meanwhile; nothing came to it"
    looked_at = {id(each) for each in gc.get_objects()}
    assert looked_at.issuperset(map(id, kept))


def test_a_collector_that_was_off_stays_off() -> None:
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


class Circle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_from_before_is_found_afterwards_and_new_garbage_at_once() -> None:
    with uncollected():  # so that garbage is found when it is asked for, and not before
        before = weakref.ref(Circle())
        with pytest.raises(ValueError), settled(every=3600.0):
            after = weakref.ref(Circle())
            gc.collect()
            assert before() is not None
            assert after() is None
            raise ValueError
        gc.collect()
        assert before() is None


def test_garbage_from_before_is_looked_for_first_where_that_is_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Looked, "at", time.monotonic() - 60)
    with uncollected():
        for every, found in ((3600.0, False), (59.0, True), (59.0, False)):
            before = weakref.ref(Circle())
            with settled(every):
                assert (before() is None) == found
            gc.collect()


def test_a_process_that_ends_looks_for_no_garbage() -> None:
    """What is registered first is called last."""
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count(), len(gc.get_objects())))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}; import foedus.domain.modules"], capture_output=True, text=True, check=True
    )
    frozen, looked_at = map(int, ended.stdout.split())
    assert frozen > 1000
    assert looked_at < 1000
