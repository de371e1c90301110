"""Plans in the sandbox of a real work process: the bytes are the same, and what hostile code tries comes to nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from foedus.node.frames import Done, Failed
from foedus.node.policy import Policy, Resources
from foedus.node.session import Session
from foedus.node.workers import Patience, Pool
from foedus.sandbox.bubblewrap import unavailable
from tests.unit.node.support import PLAN, Desk, assignment, bundle_of, truth

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=f"{unavailable()} apt-get install bubblewrap")

SMALL = Policy(resources=Resources(memory=512 << 20, temporary=8 << 20, processes=40, cpu_seconds=60))


def asked(desk: Desk, policy: Policy = SMALL, idle: float = 60.0, rounds: int = 1) -> list[Done | Failed]:
    """What the plan of a desk comes to in a pool, round after round."""

    async def working() -> list[Done | Failed]:
        pool = Pool(desk.folder / "home", Patience(idle, 60.0, 2, largest=1 << 20), lambda: policy)
        try:
            orders = [desk.order(truth().model, round=number) for number in range(1, rounds + 1)]
            return [await pool.ask(order, desk.folder, lambda: None) for order in orders]
        finally:
            await pool.close()

    return asyncio.run(working())


def plan(line: str) -> str:
    """The plan, whose loss does something first; what it finds out is in the type of what it raises."""
    body = "\n".join(f"    {each}" for each in line.splitlines())
    return f"{PLAN}\nimport ctypes, os, pathlib, socket, subprocess, sys, time\n\ndef loss(output, target):\n{body}\n"


def test_the_bytes_are_those_of_a_session_outside_and_its_folder_is_gone(tmp_path: Path) -> None:
    desk, here = Desk(tmp_path / "desk"), Desk(tmp_path / "here")
    session = Session(here.bundle, assignment(here.bundle))
    answers = asked(desk, rounds=2)
    for number, done in enumerate(answers, 1):
        expected = session.work(here.order(truth().model, round=number), lambda: None)
        assert isinstance(done, Done), done
        assert (done.weights, done.metrics) == (expected.done.weights, expected.done.metrics)
    assert (desk.folder / "update").read_bytes() == expected.update
    assert (desk.folder / "state").read_bytes() == expected.state
    assert list((desk.folder / "home" / "work").iterdir()) == []
    assert psutil.Process().children() == []


ATTACKS = """
open('/etc/passwd').read()
pathlib.Path(SECRET).read_text()
pathlib.Path('/foedus/given/plan').write_text('x')
next(pathlib.Path('/foedus').glob('data*')).write_bytes(b'x')
pathlib.Path('/etc/x').write_text('x')
os.symlink('/etc/passwd', '/foedus/given/x')
pathlib.Path('/proc/1/environ').read_bytes().index(b'SWORDFISH')
os.environ['SWORDFISH']
pathlib.Path('/private/huge').write_bytes(bytes(64 << 20))
bytearray(4 << 30)
socket.socket()
socket.socket(socket.AF_UNIX)
socket.getaddrinfo('localhost', 80)
ctypes.CDLL(None, use_errno=True).ptrace(0, 0, 0, 0) < 0 and 1 / 0
os.kill(next(int(n) for n in os.listdir('/proc') if n.isdigit() and int(n) > 100_000), 9)
""".strip().splitlines()


def test_what_a_plan_must_not_do_comes_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases 59 to 63, by a plan: files, the node's key, other data, processes, sockets, memory and disk."""
    monkeypatch.setenv("SWORDFISH", "canary")
    secret = tmp_path / "key"
    secret.write_text("canary")
    lines = [line.replace("SECRET", repr(str(secret))) for line in ATTACKS]
    tries = f"done = []\nfor line in {lines!r}:\n    try:\n        done.append((line, eval(line)))\n"
    tries += "    except Exception:\n        pass"
    desk = Desk(tmp_path / "desk", bundle_of(plan(f"{tries}\nraise ValueError(f'done: {{done}}')")))
    before = {path.name: path.read_bytes() for path in desk.folder.iterdir() if path.is_file()}
    (answer,) = asked(desk)
    assert isinstance(answer, Failed) and answer.code == "plan_failed", answer
    assert "done: []" in answer.detail
    assert "canary" not in answer.detail
    assert {name: (desk.folder / name).read_bytes() for name in before} == before


def test_forks_without_end_and_time_without_end_are_ended_with_all_they_started(tmp_path: Path) -> None:
    bomb = "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    (answer,) = asked(Desk(tmp_path / "desk", bundle_of(plan(bomb))), idle=3.0)
    assert isinstance(answer, Failed) and answer.code == "work_stalled"
    mine = str(tmp_path / "desk")
    running = psutil.process_iter(["cmdline"])
    family = [process for process in running if mine in " ".join(process.info["cmdline"] or [])]
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_an_update_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    large = PLAN.replace("nn.Linear(4, 3)", "nn.Linear(4, 200_000), nn.Linear(200_000, 3)")
    desk = Desk(tmp_path / "desk", bundle_of(large))

    async def working() -> Done | Failed:
        pool = Pool(desk.folder / "home", Patience(60.0, 60.0, 2, largest=1 << 20), lambda: SMALL)
        try:
            from foedus.local.kinds import load_plan
            from foedus.local.plan import build_model, tensors_of

            model = tensors_of(build_model(load_plan(desk.bundle), 3))
            return await pool.ask(desk.order(model), desk.folder, lambda: None)
        finally:
            await pool.close()

    answer = asyncio.run(working())
    assert isinstance(answer, Failed) and answer.code == "update_too_large", answer
    assert not (desk.folder / "update").exists()


def test_without_a_sandbox_the_owner_has_opted_out(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    line = f"pathlib.Path({str(sign)!r}).write_text('x')\nreturn nn.functional.cross_entropy(output, target)"
    held, free = (
        asked(Desk(tmp_path / name, bundle_of(plan(line))), policy)
        for name, policy in (("held", SMALL), ("free", Policy(sandbox="off")))
    )
    assert isinstance(held[0], Failed) and isinstance(free[0], Done)
    assert sign.exists() and sign.read_text() == "x"
