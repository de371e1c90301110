"""Free ports of this machine, each given once."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LOWEST, SHARES = 20_000, 16
"""Below are the ports that Ray's workers take; each of so many test processes has every sixteenth port."""


def _ports() -> Iterator[int]:
    """Ports that the kernel gives nobody: those that it gives are taken while a server is down that is to come back."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    highest = int(given.read_text().split()[0]) if given.is_file() else 32_768
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
    ports = [port for port in range(LOWEST, highest) if port % SHARES == share]
    random.Random(os.urandom(8)).shuffle(ports)
    return iter(ports)


_UNUSED = _ports()


def free_port() -> int:
    """A port that nobody listens on, and that no other test is given."""
    for port in _UNUSED:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:  # the kernel gives all of them out
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
