"""Events are the same however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.client.sse import EVENT_LIMIT, ServerEvent, server_events
from foedus.domain.errors import TooLargeError

STREAM = (
    ': hello\r\n\r\nid: 1\r\nevent: round\r\ndata: {"a":\r\ndata: 1}\r\n\r\nretry: 5\nid\ndata:x\u2028y\n\n'
    "id: 3\revent: ended\rdata: é\r\revent: nothing\n\ndata: unfinished"
).encode()
EVENTS = [
    ServerEvent("1", "round", '{"a":\n1}'),
    ServerEvent("", "message", "x\u2028y"),
    ServerEvent("3", "ended", "é"),
]


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(places)]
    assert list(server_events(chunks)) == EVENTS


@given(st.lists(st.binary(max_size=20)))
def test_any_bytes_are_read(chunks: list[bytes]) -> None:
    assert all(isinstance(event, ServerEvent) for event in server_events(chunks))


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 1000, b"data: " + b"x" * 1000 + b"\n"])
def test_an_endless_event_is_refused(chunk: bytes) -> None:
    with pytest.raises(TooLargeError) as caught:
        list(server_events(chunk for _ in range(EVENT_LIMIT // 1000 + 1)))
    assert caught.value.code == "event_too_large"
