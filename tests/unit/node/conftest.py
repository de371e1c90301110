"""What every test of the node begins with."""

from __future__ import annotations

import psutil
import pytest

from tests.unit.node import support


@pytest.fixture(autouse=True)
def _know_the_shared_services() -> None:
    """So that :func:`support.children` tells only what the test itself has started."""
    support.shared = set(psutil.Process().children())
