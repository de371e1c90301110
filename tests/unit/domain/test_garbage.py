"""Garbage is looked for where it can be, and not where there is only what stays."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref

import pytest

from foedus.domain.garbage import Looked, settled, uncollected


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
        [sys.executable, "-c", f"{code}; import foedus.domain.garbage"], capture_output=True, text=True, check=True
    )
    frozen, looked_at = map(int, ended.stdout.split())
    assert frozen > 1000
    assert looked_at < 1000
