"""A work process that ends, hangs or talks nonsense is a failed ask; it goes with all that it has started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import psutil

from foedus.node.frames import Done, Failed, Order
from foedus.node.launch import clean_environment
from foedus.node.policy import Policy
from foedus.node.workers import Patience, Pool
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
