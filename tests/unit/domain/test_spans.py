"""Spans: what work is about reaches those inside, watchers see begin, end and what became known meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from foedus.domain.spans import Fields, about, span, watched_by


def test_what_work_is_about_is_inherited_and_ends_with_it() -> None:
    with span("run", run="r1", bytes=3):
        with span("store", transaction="lease", round=2):
            assert about() == {"run": "r1", "round": 2}
        assert about() == {"run": "r1"}
    assert about() == {}


def test_threads_do_not_share_what_they_are_about() -> None:
    found: list[Fields] = []
    with span("run", run="r1"):
        thread = threading.Thread(target=lambda: found.append(about()))
        thread.start()
        thread.join()
    assert found == [{}]


def test_watchers_see_every_span_to_its_end_also_where_it_fails() -> None:
    seen: list[tuple[str, str, Fields]] = []

    @contextmanager
    def watch(name: str, fields: Fields) -> Iterator[None]:
        seen.append(("begin", name, dict(fields)))
        try:
            yield
        finally:
            seen.append(("end", name, dict(fields)))

    with watched_by(watch), pytest.raises(KeyError), span("request", method="GET") as fields:
        fields["status"] = 500
        raise KeyError
    with span("request", method="PUT"):
        pass
    assert seen == [("begin", "request", {"method": "GET"}), ("end", "request", {"method": "GET", "status": 500})]
