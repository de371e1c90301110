"""A work process that ends, hangs or talks nonsense is a failed ask; it goes with all that it has started."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from foedus.node.frames import Done, Failed, Order, Stepped, pack
from foedus.node.launch import clean_environment
from foedus.node.pipes import Prints, keep_prints
from foedus.node.policy import Policy, Resources
from foedus.node.staging import Stage
from foedus.node.workers import Patience, Pool, Worker
from tests.unit.node.support import PLAN, Desk, bundle_of, children, truth

Result = TypeVar("Result")

POLICY = Policy(sandbox="off")
"""These plans leave signs in a folder of the test's; sandboxes are tried in test_held.py."""

WHIMS = f"""{PLAN}
import os, pathlib, subprocess, sys, time
HERE = pathlib.Path(FOLDER)
(HERE / "environment").write_text(repr(dict(os.environ)))
(HERE / "folder").write_text(os.getcwd())

def loss(output, target):
    if (HERE / "hang").exists():
        subprocess.Popen(["sleep", "600"])
        (HERE / "pid").write_text(str(os.getpid()))
        while True:
            time.sleep(1)
    if (HERE / "exit").exists():
        os._exit(3)
    if (HERE / "gpu").exists():
        raise RuntimeError("CUDA error: unspecified launch failure")
    if (HERE / "talk").exists():
        for number in range(3, 30):
            try:
                os.write(number, b"\\xff" * 100)
            except OSError:
                pass
    if (HERE / "print").exists():
        print("x" * 3_000_000)
    return nn.functional.cross_entropy(output, target)
"""


def desk_in(folder: Path) -> Desk:
    return Desk(folder, bundle_of(WHIMS.replace("FOLDER", repr(str(folder)))))


def pooled(home: Path, what: Callable[[Pool], Awaitable[Result]], workers: int = 2, idle: float = 60.0) -> Result:
    async def working() -> Result:
        pool = Pool(home, Patience(idle, 60.0, workers), lambda plan: POLICY)
        try:
            return await what(pool)
        finally:
            await pool.close()

    return asyncio.run(working())


def order_for(desk: Desk, **changed: object) -> Order:
    return desk.order(truth().model, **changed)  # type: ignore[arg-type]


def nothing() -> None:
    """Nobody needs to know."""


def running() -> list[psutil.Process]:
    return children(recursive=True)


def test_whims_of_a_plan_are_failed_asks_and_the_next_ask_works(tmp_path: Path) -> None:
    desk = desk_in(tmp_path / "desk")
    order = order_for(desk)

    async def asked(pool: Pool) -> dict[str, str]:
        said = {}
        for whim in ("exit", "talk", "print"):
            (desk.folder / whim).touch()
            answer = await pool.ask(order, desk.folder, nothing)
            said[whim] = answer.code if isinstance(answer, Failed) else "done"
            (desk.folder / whim).unlink()
        assert isinstance(await pool.ask(order, desk.folder, nothing), Done)
        return said

    assert pooled(tmp_path, asked) == {"exit": "work_crashed", "talk": "work_crashed", "print": "done"}
    assert (tmp_path / "logs" / "work.log").stat().st_size <= 2 << 20
    assert running() == []


def test_case_24_a_gpu_that_is_lost_is_told_and_its_process_works_no_more(tmp_path: Path) -> None:
    """As torch tells it. What such a process asks of the GPU fails from then on, so the next ask gets another."""
    desk = desk_in(tmp_path / "desk")
    order = order_for(desk)

    async def asked(pool: Pool) -> Done | Failed:
        assert isinstance(await pool.ask(order, desk.folder, nothing), Done)
        (desk.folder / "gpu").touch()
        answer = await pool.ask(order, desk.folder, nothing)
        assert running() == []
        (desk.folder / "gpu").unlink()
        assert isinstance(await pool.ask(order, desk.folder, nothing), Done)
        return answer

    answer = pooled(tmp_path, asked)
    assert isinstance(answer, Failed) and answer.code == "gpu_lost" and "launch failure" not in answer.reason


def test_work_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    desk = desk_in(tmp_path / "desk")
    order = order_for(desk)

    async def asked(pool: Pool) -> Done | Failed:
        assert isinstance(await pool.ask(order, desk.folder, nothing), Done)
        pool._patience = Patience(3.0, 60.0, 2)
        (desk.folder / "hang").touch()
        return await pool.ask(order, desk.folder, nothing)

    answer = pooled(tmp_path, asked)
    assert isinstance(answer, Failed) and answer.code == "work_stalled"
    assert not psutil.pid_exists(int((desk.folder / "pid").read_text()))
    assert running() == []


def test_work_that_is_not_wanted_any_more_is_ended(tmp_path: Path) -> None:
    desk = desk_in(tmp_path / "desk")
    (desk.folder / "hang").touch()

    async def asked(pool: Pool) -> bool:
        task = asyncio.create_task(pool.ask(order_for(desk), desk.folder, nothing))
        while not ((sign := desk.folder / "pid").exists() and sign.read_text()):
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return psutil.pid_exists(int((desk.folder / "pid").read_text()))

    assert pooled(tmp_path, asked) is False


def test_a_run_keeps_its_process_and_few_are_kept(tmp_path: Path) -> None:
    desk = desk_in(tmp_path / "desk")

    async def asked(pool: Pool) -> list[list[int]]:
        seen = []
        for run in ("r_1", "r_1", "r_2"):
            assert isinstance(await pool.ask(order_for(desk, run=run), desk.folder, nothing), Done)
            seen.append([process.pid for process in running()])
        await pool.drop("r_2")
        return [*seen, [process.pid for process in running()]]

    first, second, third, last = pooled(tmp_path, asked, workers=1)
    assert first == second and len(first) == 1
    assert len(third) == 1 and third != first
    assert last == []


def test_a_process_goes_when_the_owner_s_policy_has_changed(tmp_path: Path) -> None:
    """Begun without a sandbox it would go on without one."""
    desk, now = desk_in(tmp_path / "desk"), [POLICY]

    async def asked() -> list[list[int]]:
        seen, pool = list[list[int]](), Pool(tmp_path, Patience(60.0, 60.0, 2), lambda plan: now[0])
        try:
            for policy in (POLICY, Policy(sandbox="off"), Policy(sandbox="off", resources=Resources(processes=5))):
                now[0] = policy
                assert isinstance(await pool.ask(order_for(desk), desk.folder, nothing), Done)
                seen.append([process.pid for process in running()])
        finally:
            await pool.close()
        return seen

    first, same, changed = asyncio.run(asked())
    assert first == same and len(first) == len(changed) == 1
    assert changed != first


def test_a_process_that_cannot_be_started_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = desk_in(tmp_path / "desk")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError):
        pooled(tmp_path, lambda pool: pool.ask(order_for(desk), desk.folder, nothing))
    assert list((tmp_path / "work").iterdir()) == []


def test_frames_without_a_pause_leave_the_agent_its_turns(tmp_path: Path) -> None:
    desk, count, turns = desk_in(tmp_path / "desk"), 500, 0
    frames = [pack(Stepped(steps=number)) for number in range(count)]
    (tmp_path / "said").write_bytes(b"".join(frames) + pack(Failed(code="plan_failed", reason="It failed.")))

    seen = list[int]()

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def step() -> None:
        seen.append(turns)

    async def asked() -> Done | Failed:
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", "cat said; touch all; exec cat >rest"),
            **{"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, "cwd": tmp_path, "start_new_session": True},
        )
        while not (tmp_path / "all").exists():  # then all that it said is in the pipe
            await asyncio.sleep(0.01)
        assert process.stderr is not None
        printing = asyncio.create_task(keep_prints(process.stderr, tmp_path / "log", Prints()))
        stage = Stage(tmp_path / "stage", desk.folder / "data.npz", inside=False)
        turning = asyncio.create_task(turn())
        try:
            worker = Worker(process, printing, stage, POLICY)
            return await worker.ask(order_for(desk), desk.folder, Patience(60.0, 60.0, 1), step)
        finally:
            turning.cancel()
            await worker.end()

    answer = asyncio.run(asked())
    assert isinstance(answer, Failed) and answer.code == "plan_failed"
    assert len(seen) == len(set(seen)) == count, "a turn between each two frames"


def test_the_plan_sees_no_secret_of_the_environment_and_works_in_a_folder_of_its_own(tmp_path: Path) -> None:
    desk = desk_in(tmp_path / "desk")
    os.environ["FOEDUS_NODE_SECRET"] = "swordfish"
    try:
        pooled(tmp_path, lambda pool: pool.ask(order_for(desk), desk.folder, nothing))
    finally:
        del os.environ["FOEDUS_NODE_SECRET"]
    assert "swordfish" not in (desk.folder / "environment").read_text()
    assert (desk.folder / "folder").read_text() == str(tmp_path / "work")


def test_what_computes_is_handed_on() -> None:
    kept = clean_environment({"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "8", "AWS_SECRET_ACCESS_KEY": "x"})
    assert kept == {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
