"""The work process, driven through its frames as the agent drives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from foedus.node.frames import Done, Failed, Order, Ready, Stepped, pack, read
from foedus.node.session import Session
from tests.unit.node.support import PLAN, Desk, assignment, bundle_of, truth

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}


class Child:
    """A work process."""

    def __init__(self, printed: Path) -> None:
        self.printed = printed
        with printed.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "foedus.node.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=ENVIRONMENT,
                start_new_session=True,
            )

    def ask(self, order: Order) -> Done | Failed | None:
        """Its answer, or None where it ended without one."""
        assert self.process.stdin is not None
        self.process.stdin.write(pack(order))
        self.process.stdin.flush()
        while isinstance(answer := self.next(), Ready | Stepped):
            pass
        assert not isinstance(answer, Order)
        if isinstance(answer, Done):
            replies = self.process.stdout
            assert replies is not None
            self.made = {"update": replies.read(answer.update), "state": replies.read(answer.state)}
        return answer

    def next(self) -> Order | Ready | Stepped | Done | Failed | None:
        assert self.process.stdout is not None
        return read(self.process.stdout.read)

    def close(self) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        code = self.process.wait(120)
        self.process.stdout.close()
        return code


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    running = Child(tmp_path / "printed")
    yield running
    if running.process.poll() is None:
        os.killpg(running.process.pid, signal.SIGKILL)
    running.close()


def test_the_work_process_gives_the_bytes_of_a_session_here(child: Child, tmp_path: Path) -> None:
    there, here, model = Desk(tmp_path / "there"), Desk(tmp_path / "here"), truth().model
    assert isinstance(child.next(), Ready)
    done = child.ask(there.order(model))
    expected = Session(here.bundle, assignment(here.bundle)).work(here.order(model), lambda: None)
    assert isinstance(done, Done)
    assert (done.weights, done.metrics) == (expected.done.weights, expected.done.metrics)
    assert child.made == {"update": expected.update, "state": expected.state}


def test_prints_of_the_plan_disturb_nothing_and_a_failure_does_not_end_it(child: Child, tmp_path: Path) -> None:
    text = f"{PLAN}\nimport os\nprint('hello')\nos.write(1, b'raw')\nassert input is not None\n"
    desk = Desk(tmp_path / "desk", bundle_of(text))
    failed = child.ask(desk.order(truth().model, phase="gather"))
    assert isinstance(failed, Failed) and failed.code == "phase_unknown"
    assert isinstance(child.ask(desk.order(truth().model)), Done)
    assert {b"hello", b"raw"} <= {word for word in (b"hello", b"raw") if word in child.printed.read_bytes()}


def test_the_plan_cannot_read_the_orders(child: Child, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk", bundle_of(f"{PLAN}\nimport sys\nassert sys.stdin.read() == ''\n"))
    assert isinstance(child.ask(desk.order(truth().model)), Done)


def test_what_the_plan_raises_is_told_by_type_and_line_alone(child: Child, tmp_path: Path) -> None:
    text = PLAN + "\ndef loss(output, target):\n    raise ValueError(f'{target} /home/secret')\n"
    desk = Desk(tmp_path / "desk", bundle_of(text))
    failed = child.ask(desk.order(truth().model))
    assert isinstance(failed, Failed) and failed.code == "plan_failed"
    line = text.splitlines().index("    raise ValueError(f'{target} /home/secret')") + 1
    assert failed.reason == f"The plan's code failed. It raised ValueError (plan.py, line {line})."
    assert "secret" in failed.detail


def test_it_ends_with_all_that_the_plan_started_when_the_pipe_is_closed(child: Child, tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = "import subprocess, pathlib\nit = subprocess.Popen(['sleep', '600'])\n"
    code += f"pathlib.Path({str(started)!r}).write_text(str(it.pid))"
    desk = Desk(tmp_path / "desk", bundle_of(f"{PLAN}\n{code}\n"))
    assert isinstance(child.ask(desk.order(truth().model)), Done)
    grandchild = psutil.Process(int(started.read_text()))
    assert child.close() == -signal.SIGKILL
    psutil.wait_procs([grandchild], timeout=60)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_a_malformed_frame_ends_it(child: Child) -> None:
    assert child.process.stdin is not None
    child.process.stdin.write((2**31).to_bytes(4, "little"))
    child.process.stdin.flush()
    assert child.process.wait(120) == -signal.SIGKILL
