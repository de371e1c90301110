"""What a work process is shown can be read by whom it is, whatever the umask under which the node was started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from foedus.domain.plan import COMMAND_ENTRY, PlanBundle
from foedus.node.staging import Stage
from tests.unit.node.support import Desk, truth


@pytest.fixture
def closed() -> Iterator[None]:
    """A umask that lets nobody else in, as the guides have it."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only a sandbox of root's is somebody else's")
@pytest.mark.usefixtures("closed")
def test_somebody_else_may_enter_what_is_shown_and_read_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk", PlanBundle({COMMAND_ENTRY: b"{}", "lib/x.py": b""}, COMMAND_ENTRY))
    (desk.folder / "data.npz").chmod(0o644)
    stage = Stage(tmp_path / "work", desk.folder / "data.npz", inside=True)
    stage.set(desk.order(truth().model))
    given = [stage.given, *stage.given.rglob("*")]
    assert len(given) > 5
    for path in given:
        wanted = 0o005 if path.is_dir() else 0o004
        assert path.stat().st_mode & wanted == wanted, path
    assert (tmp_path / "work").stat().st_mode & 0o077 == 0, "and nobody enters the folder above"
