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


def test_case_56_a_command_s_files_are_those_of_the_bundle_that_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file is swapped at once after it was given."""
    desk = Desk(tmp_path / "desk", PlanBundle({COMMAND_ENTRY: b"{}"}, COMMAND_ENTRY))
    other, give = tmp_path / "other", os.link
    other.write_bytes(PlanBundle({COMMAND_ENTRY: b'{"command": ["other"]}'}, COMMAND_ENTRY).to_bytes())

    def swapped(path: str, link: Path) -> None:
        give(path, link)
        if link.name == "plan":
            other.replace(path)

    monkeypatch.setattr(os, "link", swapped)
    stage = Stage(tmp_path / "work", desk.folder / "data.npz", inside=True)
    stage.set(desk.order(truth().model))
    assert (stage.given / "plan").read_bytes() == desk.bundle.to_bytes() != (desk.folder / "bundle.json").read_bytes()
    assert (stage.given / "files" / COMMAND_ENTRY).read_bytes() == b"{}"


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
