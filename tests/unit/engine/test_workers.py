"""Executor ``workers``: the bits of ``inline``, whatever dies, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from foedus.data.dataset import ClientData, Examples
from foedus.domain.errors import PlanError
from foedus.domain.rng import Randomness, generator
from foedus.domain.round import Broadcast, PhaseOrder
from foedus.domain.tree import Parts, State, flatten, same
from foedus.engine.dealing import items_of
from foedus.engine.executors import InlineExecutor
from foedus.engine.kernels import BlockResult, EagerKernel, PhaseWork
from foedus.engine.prepare import Prepared
from foedus.engine.workers import WorkersExecutor
from foedus.local.work import Carry, Finished, LocalWork, Objective
from foedus.strategies.strategy import Phase
from tests.plans import DIGITS, prepared

PLAIN = DIGITS.replace('columns["image"].to(torch.float32) / 16', 'columns["image"]')


def source(name: str) -> ClientData:
    """Between 5 and 34 examples, by the name."""
    rng = generator(5, 0, name, "examples")
    count = 5 + int(torch.randint(30, (), generator=rng))
    inputs, targets = torch.rand(count, 64, generator=rng), torch.randint(10, (count,), generator=rng)
    return ClientData(name, Examples(inputs, targets), Examples(inputs[:3], targets[:3]))


def work_of(ready: Prepared, clients: int) -> PhaseWork:
    state = ready.strategy.init(ready.model)
    phase = ready.strategy.phase(state)
    assert isinstance(phase, Phase)
    order = PhaseOrder(1, phase.name, tuple(f"c{at:03d}" for at in range(clients)))
    return PhaseWork(order, phase, Broadcast({"model": state.tensors["model"]}), {}, 1)


def inline(ready: Prepared, work: PhaseWork) -> list[BlockResult]:
    return list(InlineExecutor(EagerKernel(ready.plan, 1), source).run(work, work.order.blocks))


def alike(found: Sequence[BlockResult], expected: Sequence[BlockResult]) -> bool:
    """The same sums to the bit, and the same receipts but for the time."""
    strip = [[replace(receipt, seconds=0.0) for receipt in block.receipts] for block in (*found, *expected)]
    return strip[: len(found)] == strip[len(found) :] and all(
        same(flatten(one.sums.tensors), flatten(two.sums.tensors))
        and (one.sums.weights, one.sums.count) == (two.sums.weights, two.sums.count)
        and one.states.keys() == two.states.keys()
        and all(one.states[name].data == two.states[name].data for name in one.states)
        for one, two in zip(found, expected, strict=True)
    )


@pytest.fixture
def ready(tmp_path: Path) -> Prepared:
    return prepared(tmp_path, PLAIN)


@pytest.mark.parametrize("clients", [1, 4, 10, 25, 60])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_blocks_are_those_of_inline_to_the_bit(ready: Prepared, clients: int, count: int) -> None:
    work = work_of(ready, clients)
    executor = WorkersExecutor(EagerKernel(ready.plan, 1), source, count)
    try:
        assert alike(list(executor.run(work, work.order.blocks)), inline(ready, work))
    finally:
        executor.close()


def test_whole_blocks_go_out_where_there_are_enough_and_clients_where_not(ready: Prepared) -> None:
    kernel, many, few = EagerKernel(ready.plan, 1), work_of(ready, 40), work_of(ready, 7)
    assert [len(item.clients) for item in items_of(kernel, many, many.order.blocks, 2)] == [10, 10, 10, 10]
    assert [len(item.clients) for item in items_of(kernel, few, few.order.blocks, 2)] == [1] * 7


@pytest.mark.parametrize("allowed", [True, False])
def test_workers_let_the_parent_go_on_where_they_may(
    ready: Prepared, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """Some sandboxes do not let a process choose how it is scheduled; it works all the same."""

    def refuse(*_: object) -> None:
        raise PermissionError

    if not allowed:
        monkeypatch.setattr(os, "sched_setscheduler", refuse)
    executor, work = WorkersExecutor(EagerKernel(ready.plan, 1), source, 2), work_of(ready, 6)
    try:
        assert alike(list(executor.run(work, work.order.blocks)), inline(ready, work))
        found = {os.sched_getscheduler(process) for process in executor.processes}
        assert found == {os.SCHED_BATCH if allowed else os.SCHED_OTHER}
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    finally:
        executor.close()


def test_a_new_phase_and_a_larger_broadcast_are_taken_on(ready: Prepared) -> None:
    executor = WorkersExecutor(EagerKernel(ready.plan, 1), source, 2)
    try:
        executor.start()
        first = work_of(ready, 12)
        extra: Parts = {**first.broadcast.tensors, "control": {"c": torch.ones(300_000)}}
        second = replace(first, broadcast=Broadcast(extra), phase=replace(first.phase, name="train"))
        for work in (first, second, first):
            assert alike(list(executor.run(work, work.order.blocks)), inline(ready, work))
    finally:
        executor.close()


def test_client_states_with_tensors_go_down_and_come_back(ready: Prepared) -> None:
    base = work_of(ready, 5)

    def build(objective: Objective) -> LocalWork:
        plain = base.phase.work(objective)

        def init(broadcast: Broadcast, state: State, rng: Randomness) -> Carry:
            return {**plain.init(broadcast, state, rng), "seen": state.tensors.get("seen", {"sum": torch.zeros(2)})}

        def finish(broadcast: Broadcast, carry: Carry) -> Finished:
            return replace(plain.finish(broadcast, carry), state={"seen": {"sum": carry["seen"]["sum"] + 1}})

        return replace(plain, init=init, finish=finish)

    work = replace(base, phase=replace(base.phase, work=build))
    executor = WorkersExecutor(EagerKernel(ready.plan, 1), source, 2)
    try:
        for round_number in (1, 2):
            results = list(executor.run(work, work.order.blocks))
            states = {name: state for result in results for name, state in result.states.items()}
            assert [state.tensors["seen"]["sum"].tolist() for state in states.values()] == [[round_number] * 2] * 5
            work = replace(work, states=states)
    finally:
        executor.close()


def test_an_error_of_the_plan_is_raised_as_it_is_inline(tmp_path: Path) -> None:
    ready = prepared(tmp_path, PLAIN.replace("cross_entropy(output, target)", "cross_entropy(output, target)[None]"))
    work = work_of(ready, 4)
    executor = WorkersExecutor(EagerKernel(ready.plan, 1), source, 2)
    try:
        with pytest.raises(PlanError) as raised:
            list(executor.run(work, work.order.blocks))
    finally:
        executor.close()
    assert raised.value.code == "plan_loss_shape"


def _killer(folder: Path, times: int) -> str:
    """A plan that kills its process whenever it sees the marked client, so many times."""
    return PLAIN.replace(
        "    return nn.functional.cross_entropy(output, target)",
        f"    import os, pathlib\n"
        f"    tries = pathlib.Path({str(folder)!r})\n"
        f"    if target.numel() and int(target[0]) == 77 and len(list(tries.glob('try*'))) < {times}:\n"
        f"        (tries / f'try{{os.getpid()}}').touch()\n"
        f"        os.kill(os.getpid(), 9)\n"
        f"    return nn.functional.cross_entropy(output, target.clamp(max=9))",
    )


def marked(name: str) -> ClientData:
    data = source(name)
    if name != "c003":
        return data
    return ClientData(name, Examples(data.train.inputs, torch.full_like(data.train.targets, 77)), data.test)


@pytest.mark.parametrize("clients", [7, 40])
def test_a_worker_that_is_killed_once_costs_nothing(tmp_path: Path, clients: int) -> None:
    ready = prepared(tmp_path, _killer(tmp_path, 1))
    work, calm = work_of(ready, clients), prepared(tmp_path, _killer(tmp_path, 0))
    executor = WorkersExecutor(EagerKernel(ready.plan, 1), marked, 2)
    try:
        found = list(executor.run(work, work.order.blocks))
    finally:
        executor.close()
    assert len(list(tmp_path.glob("try*"))) == 1
    kernel = EagerKernel(calm.plan, 1)
    assert alike(found, list(InlineExecutor(kernel, marked).run(work_of(calm, clients), work.order.blocks)))


@pytest.mark.parametrize(("clients", "lost"), [(7, 1), (40, 10)])
def test_work_that_kills_two_workers_is_a_failure_of_its_clients_alone(tmp_path: Path, clients: int, lost: int) -> None:
    ready = prepared(tmp_path, _killer(tmp_path, 9))
    work = work_of(ready, clients)
    executor = WorkersExecutor(EagerKernel(ready.plan, 1), marked, 2)
    try:
        found = list(executor.run(work, work.order.blocks))
        assert len(executor.processes) == 2
    finally:
        executor.close()
    assert len(list(tmp_path.glob("try*"))) == 2
    receipts = [receipt for result in found for receipt in result.receipts]
    assert [receipt.client for receipt in receipts] == list(work.order.clients)
    failed = [receipt for receipt in receipts if receipt.failure]
    assert len(failed) == lost
    assert "c003" in {receipt.client for receipt in failed}
    assert all(receipt.failure.startswith("worker_died: ") for receipt in failed)


def test_nothing_is_left_when_it_is_closed_or_left_in_the_middle(ready: Prepared) -> None:
    work = work_of(ready, 40)
    executor = WorkersExecutor(EagerKernel(ready.plan, 1), source, 2)
    results: Iterator[BlockResult] = executor.run(work, work.order.blocks)
    next(results)
    processes = executor.processes
    assert len(processes) == 2
    assert all(psutil.pid_exists(process) for process in processes)
    del results
    executor.close()
    assert not any(psutil.pid_exists(process) for process in processes)
    assert executor.processes == ()


SLOW = """
import sys, time
from pathlib import Path
from foedus.engine.choice import Engine
from foedus.engine.simulate import simulate
from tests.plans import DIGITS, prepared
slow = DIGITS.replace("    return nn.functional", "    import time; time.sleep(0.05)\\n    return nn.functional", 1)
print("ready", flush=True)
simulate(prepared(Path(sys.argv[1]), slow, rounds=1000), Engine("eager", "workers", 2))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_simulation(tmp_path: Path, sent: signal.Signals) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])}
    command = [sys.executable, "-c", SLOW, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = _until(lambda: psutil.Process(process.pid).children())
        assert len(children) == 2
        os.kill(process.pid, sent)
        assert process.wait(timeout=120) != 0
    assert _until(lambda: not any(_runs(child) for child in children))


def _runs(process: psutil.Process) -> bool:
    """Whether it does, or could; what nobody has waited for yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _until(condition: Callable[[], Any]) -> Any:
    """The first true value of ``condition`` within some seconds."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = condition()
        if found and (found is True or len(found) == 2):
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come true")
