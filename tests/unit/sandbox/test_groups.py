"""Control groups: made where the kernel gives this process a group to divide, entered before anything is started."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from foedus.sandbox.groups import ENTER, OURS, Group, divided, group, place


@pytest.fixture
def hierarchy() -> Iterator[Path]:
    """A group of the test's own in the kernel's second hierarchy, wherever that is mounted."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mounted = [Path(line[1]) for line in lines if line[2] == "cgroup2"]
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::"), None)
    if not mounted or own is None:
        pytest.skip("the kernel has no control groups of version 2 here")
    folder = mounted[0] / own.lstrip("/") / f"foedus-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this user may make no control group: {error}")
    yield folder
    Group(folder).end()


def test_case_25_what_is_started_is_in_the_group_and_ends_with_it(hierarchy: Path) -> None:
    held = Group(hierarchy)
    script = "sleep 600 & exec setsid sleep 600"
    process = subprocess.Popen(held.entered(["/bin/sh", "-c", script]))
    end = time.monotonic() + 120
    while len(inside := (hierarchy / "cgroup.procs").read_text().split()) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert str(process.pid) in inside
    held.end()
    assert process.wait(60) == -9
    assert not hierarchy.exists() and not [one for one in inside if Path(f"/proc/{one}/exe").exists()]


def test_where_a_group_can_be_divided_its_members_have_bounds() -> None:
    bound = group("test", 64 << 20, 20)
    if bound is None:
        assert place() is None
        pytest.skip("this process has no control group of its own to divide (a service with Delegate=yes has)")
    hog = ["/bin/sh", "-c", "x=x; while :; do x=$x$x; done"]
    assert subprocess.run(bound.entered(hog), check=False).returncode == -9
    assert bound.overfull()
    bound.end()
    assert not bound.folder.exists()


def test_a_group_that_is_not_ours_to_divide_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "self"
    (tmp_path / "slice").mkdir()
    for table in ("", "4:memory:/slice\n", "0::/slice\n", "0::/gone\n"):
        own.write_text(table)
        assert divided(tmp_path, own) is None
    (tmp_path / "slice" / "cgroup.controllers").write_text("cpu io\n")
    own.write_text("0::/slice\n")
    assert divided(tmp_path, own) is None, "nothing bounds memory there"
    (tmp_path / "slice" / "cgroup.controllers").write_text("cpu io memory pids\n")
    (tmp_path / "slice" / "cgroup.subtree_control").mkdir()  # writing there fails, as where others are in the group
    assert divided(tmp_path, own) is None
    assert (tmp_path / "slice" / "cgroup.procs").read_text() == str(os.getpid()), "it went back"


def test_a_group_is_divided_once_by_whoever_was_there_alone(tmp_path: Path) -> None:
    own, unit = tmp_path / "self", tmp_path / "unit"
    unit.mkdir()
    (unit / "cgroup.controllers").write_text("memory pids\n")
    for table in ("0::/unit\n", f"0::/unit/{OURS}\n"):
        own.write_text(table)
        assert divided(tmp_path, own) == unit
        assert (unit / OURS / "cgroup.procs").read_text() == str(os.getpid())
        assert (unit / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_who_cannot_enter_does_not_start(tmp_path: Path) -> None:
    words = Group(tmp_path / "gone").entered(["/usr/bin/touch", str(tmp_path / "sign")])
    assert words[2] == ENTER
    assert subprocess.run(words, capture_output=True, check=False).returncode != 0
    assert not (tmp_path / "sign").exists()
