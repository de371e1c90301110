"""A coordinator of three clients, and a run on it; files that need another one have their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.coordinator.scene import Scene, begin, close_all, supervised


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No scene of a test stays open after it."""
    yield
    close_all()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Driven, with three clients."""
    with supervised(tmp_path) as made:
        yield made


@pytest.fixture
def run(scene: Scene) -> str:
    """A run that has begun."""
    return begin(scene)
