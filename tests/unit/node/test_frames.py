"""Frames are whole, small and known, or refused."""

from __future__ import annotations

import io

import pytest

from foedus.domain.errors import IntegrityError
from foedus.node.frames import LIMIT, Done, Failed, Ready, Stepped, length, pack, parse, read


@pytest.mark.parametrize(
    "frame",
    [
        Ready(),
        Stepped(steps=3),
        Done(weights={"examples": 2.0}, metrics={"loss": 0.5}, seconds=1.0, update=8, state=9),
        Failed(code="plan_failed", reason="It failed.", detail="all of it"),
    ],
)
def test_a_frame_comes_back_as_it_was(frame: Ready | Stepped | Done | Failed) -> None:
    stream = io.BytesIO(pack(frame) + pack(Ready()))
    assert read(stream.read) == frame
    assert read(stream.read) == Ready()
    assert read(stream.read) is None


def test_a_cut_frame_is_the_end() -> None:
    assert read(io.BytesIO(pack(Stepped(steps=3))[:-1]).read) is None


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(IntegrityError, match="malformed"):
        length((LIMIT + 1).to_bytes(4, "little"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"kind":"pickle"}',
        b'{"kind":"stepped","steps":-1}',
        b'{"kind":"stepped","steps":1,"cpu":1e300}',
        b'{"kind":"ready","more":1}',
        b'{"kind":"done","weights":{"examples":NaN},"metrics":{},"seconds":1,"update":true}',
        b'{"kind":"done","weights":{"../a":1},"metrics":{},"seconds":1,"update":true}',
    ],
)
def test_what_is_no_frame_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse(content)
    assert caught.value.code == "frame_malformed"
