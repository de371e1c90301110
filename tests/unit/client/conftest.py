"""A peer on loopback, and a connection to it that hardly waits between tries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from foedus.client.http import Connection
from foedus.wire.http import Retry
from tests.unit.client.peer import Peer, serving

TOKEN = "fdp_0123456789abcdef"


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(Peer()) as running:
        yield running


@pytest.fixture
def connection(peer: Peer) -> Iterator[Connection]:
    with Connection(peer.url, TOKEN, Retry(attempts=4, base=0.001, cap=0.001)) as opened:
        yield opened
