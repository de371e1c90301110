"""Executor ``ray`` on a real Ray of two workers: the bits of ``inline``, whatever dies, and nothing left behind."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from foedus.data.catalogue import federate
from foedus.data.dataset import Columns
from foedus.data.population import Federation, Generated, federation
from foedus.domain.codec import encode
from foedus.domain.errors import ConfigError, PlanError
from foedus.domain.plan import PlanBundle
from foedus.domain.round import Broadcast, PhaseOrder
from foedus.domain.tree import State
from foedus.engine.choice import Engine
from foedus.engine.clients import Clients
from foedus.engine.executors import InlineExecutor
from foedus.engine.kernels import BlockResult, EagerKernel, Outcome, PhaseWork
from foedus.engine.prepare import Prepared, prepare, prepare_plan
from foedus.engine.ray_extra import ray_executor, require_ray
from foedus.engine.simulate import Result, simulate, simulate_on
from foedus.strategies.strategy import Phase
from tests.plans import BATCHNORM, DIGITS, DROPOUT, prepared
from tests.ports import free_port

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'foedus[ray]'"),
]

INLINE, RAY = Engine("eager", "inline"), Engine("eager", "ray", 2)
MANY = {"name": "digits", "held_out": 0.2, "partition": {"name": "dirichlet", "alpha": 0.5, "clients": 45}}
DIGEST = "0969a64d5d86e6116fcfad43c17105a62e58fd142def6111ca26acf0003cecc6"


@pytest.fixture(scope="module")
def two() -> Iterator[None]:
    """A Ray with two CPUs, which this process is connected to; the executors join it and leave it as it is."""
    require_ray()
    from foedus.engine.ray_cluster import connect

    cluster = connect(2, 0)
    yield
    cluster.close()


def many(folder: Path, plan: str = DIGITS, **changes: Any) -> Prepared:
    return prepared(folder, plan, data=MANY, cohort={"size": 43}, **changes)


def alike(one: Result, two: Result) -> bool:
    """The same models, metrics and failures, round by round."""
    first, second = (
        [(row.model, row.metrics, [[(r.client, r.failure) for r in p.receipts] for p in row.phases]) for row in rounds]
        for rounds in (one.rounds, two.rounds)
    )
    return bool(first) and first == second and one.model_digest == two.model_digest


@pytest.mark.parametrize("plan", [DIGITS, BATCHNORM, DROPOUT], ids=["digits", "batchnorm", "dropout"])
def test_eager_gives_the_bits_of_inline(two: None, plan: str, tmp_path: Path) -> None:
    spread = simulate(many(tmp_path, plan), RAY)
    assert (spread.choice.executor, spread.choice.workers) == ("ray", 2)
    assert alike(spread, simulate(many(tmp_path, plan), INLINE))


def test_parts_of_a_block_and_states_of_clients_give_the_bits_of_inline(two: None, tmp_path: Path) -> None:
    """A client's next epoch depends on its state, and a cohort of four is one block, which two workers share."""
    server = {"name": "fedavg", "local": {"lr": 0.1, "batch_size": 10}, "server": {"optimizer": "adam", "lr": 0.1}}
    ready = prepared(tmp_path, rounds=4, strategy=server)
    assert alike(simulate(ready, RAY), simulate(ready, INLINE))


def test_graph_gives_the_bits_of_graph_inline_with_the_same_recipe(two: None, tmp_path: Path) -> None:
    inline = simulate(many(tmp_path), Engine("graph", "inline"))
    spread = simulate(many(tmp_path), Engine("graph", "ray", 2, recipe=inline.choice.recipe))
    assert (spread.choice.kernel, spread.choice.executor) == ("graph", "ray")
    assert spread.choice.recipe == inline.choice.recipe
    assert alike(spread, inline)


def own_clients() -> Federation:
    """Clients that no run.toml describes; the labels of the fourth mark it."""

    def columns(place: int) -> Columns:
        rng = torch.Generator().manual_seed(place)
        labels = torch.arange(20) % 10
        return {"image": torch.rand(20, 64, generator=rng) * 16, "label": labels.fill_(77) if place == 3 else labels}

    return federation(Generated(43, columns))


def marked(body: str) -> str:
    """A plan that does something of its own with the marked client's batches."""
    lines = ["    import os, pathlib", "    if target.numel() and int(target[0]) == 77:", f"        {body}"]
    loss = "    return nn.functional.cross_entropy(output, target"
    return DIGITS.replace(f"{loss})", "\n".join([*lines, f"{loss}.clamp(max=9))"]))


def test_clients_of_the_users_own_travel_and_a_plan_that_raises_for_one_fails_for_it_alone(
    two: None, tmp_path: Path
) -> None:
    ready = many(tmp_path, marked("raise ValueError('no')"))
    spread = simulate_on(ready, own_clients(), RAY)
    assert alike(spread, simulate_on(ready, own_clients(), INLINE))
    failures = {receipt.client: receipt.failure for receipt in spread.rounds[0].phases[0].receipts if receipt.failure}
    assert list(failures) == ["c0003"]
    assert failures["c0003"].startswith("plan_failed")


@pytest.mark.soak
def test_work_that_ends_two_workers_is_a_failure_of_its_clients_alone(two: None, tmp_path: Path) -> None:
    body = f"(pathlib.Path({str(tmp_path)!r}) / f'try{{os.getpid()}}').touch(); os.kill(os.getpid(), 9)"
    ready = many(tmp_path, marked(body), rounds=1, test={"ratio": 0.0})
    result = simulate_on(ready, own_clients(), RAY)
    assert len(list(tmp_path.glob("try*"))) == 2
    receipts = result.rounds[0].phases[0].receipts
    failed = [receipt for receipt in receipts if receipt.failure]
    assert [receipt.client for receipt in failed] == [f"c{at:04d}" for at in range(10)]
    assert all(receipt.failure.startswith("worker_died: ") for receipt in failed)
    assert len(receipts) == 43


def test_a_worker_that_is_killed_in_the_middle_of_a_round_costs_nothing(two: None, tmp_path: Path) -> None:
    ready = many(tmp_path, DIGITS.replace("    return nn.f", "    import time; time.sleep(0.005)\n    return nn.f", 1))
    work, source, kernel = work_of(ready), Clients(ready, federate(ready.spec, ready.base)), EagerKernel(ready.plan, 1)
    executor, _ = ray_executor(kernel, ready, source, 2, 43)
    try:
        results = executor.run(work, work.order.blocks)
        found = [next(results)]
        killed = executor.sites[0].process
        os.kill(killed, signal.SIGKILL)
        found.extend(results)
        assert killed not in {site.process for site in executor.sites}
    finally:
        executor.close()
    expected = list(InlineExecutor(kernel, source).run(work, work.order.blocks))
    assert [told(block) for block in found] == [told(block) for block in expected]


def test_single_outcomes_are_those_of_inline_in_the_order_given(two: None, tmp_path: Path) -> None:
    ready = many(tmp_path)
    work, source, kernel = work_of(ready), Clients(ready, federate(ready.spec, ready.base)), EagerKernel(ready.plan, 1)
    executor, _ = ray_executor(kernel, ready, source, 2, 43)
    clients = ("c0007", "c0002", "c0011")
    try:
        found = list(executor.outcomes(work, clients))
    finally:
        executor.close()
    assert tuple(outcome.client for outcome in found) == clients
    expected = list(InlineExecutor(kernel, source).outcomes(work, clients))
    assert [unfolded(outcome) for outcome in found] == [unfolded(outcome) for outcome in expected]


def unfolded(outcome: Outcome) -> tuple[object, ...]:
    made = outcome.contribution
    assert made is not None
    return encode(State(made.update)), made.weights, made.metrics, outcome.state.data, outcome.failure


def work_of(ready: Prepared) -> PhaseWork:
    state = ready.strategy.init(ready.model)
    phase = ready.strategy.phase(state)
    assert isinstance(phase, Phase)
    order = PhaseOrder(1, phase.name, tuple(f"c{at:04d}" for at in range(43)))
    return PhaseWork(order, phase, Broadcast({"model": state.tensors["model"]}), {}, 1)


def told(block: BlockResult) -> tuple[object, ...]:
    """A block's sums as bytes, its receipts but for the time, its states."""
    receipts = [replace(receipt, seconds=0.0) for receipt in block.receipts]
    states = {name: state.data for name, state in block.states.items()}
    return encode(State(block.sums.tensors)), block.sums.weights, block.sums.count, receipts, states


def test_an_error_of_the_plan_is_raised_as_it_is_inline(two: None, tmp_path: Path) -> None:
    ready = many(tmp_path, DIGITS.replace("cross_entropy(output, target)", "cross_entropy(output, target)[None]"))
    with pytest.raises(PlanError) as raised:
        simulate(ready, RAY)
    assert raised.value.code == "plan_loss_shape"


def test_a_plan_that_was_made_in_python_is_refused_with_the_reason(two: None, tmp_path: Path) -> None:
    ready = prepared(tmp_path)
    with pytest.raises(ConfigError) as raised:
        simulate(prepare_plan(ready.spec, ready.base, PlanBundle({}, "plan.py"), ready.plan), RAY)
    assert raised.value.code == "plan_stays"


def test_an_asynchronous_run_gives_the_bits_of_inline(two: None) -> None:
    ready = prepare(Path("examples/fedbuff/run.toml"), {"rounds": "6", "test.every": "3"})
    assert alike(simulate(ready, RAY), simulate(ready, INLINE))


def test_more_workers_than_the_cluster_has_are_refused(two: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        simulate(prepared(tmp_path), Engine("eager", "ray", 3))
    assert raised.value.code == "workers_refused"


@pytest.mark.parametrize(
    ("address", "code", "exit_code"),
    [
        ("127.0.0.1:1", "ray_unreachable", 5),
        ("nonsense", "ray_address_refused", 3),
        ("ray://127.0.0.1:10001", "ray_address_refused", 3),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(
    address: str, code: str, exit_code: int, tmp_path: Path
) -> None:
    done = subprocess.run([*COMMAND, "--out", tmp_path / "out"], env=environment(address), capture_output=True)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (exit_code, code)


def test_without_the_extra_it_is_refused_with_the_line_that_installs_it(tmp_path: Path) -> None:
    script = "import sys; sys.modules['ray'] = None; from foedus.cli.main import main; main()"
    command = [sys.executable, "-c", script, *COMMAND[3:], "--out", tmp_path / "out"]
    done = subprocess.run(command, env=environment(), capture_output=True)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (3, "extra_missing")
    assert "pip install 'foedus[ray]'" in error["fix"]


COMMAND = [sys.executable, "-m", "foedus", "simulate", "examples/digits/run.toml", "--kernel", "eager"]
COMMAND += ["--executor", "ray", "--workers", "2", "--json"]


def environment(address: str | None = None) -> dict[str, str]:
    """This process's, without what it said to Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": "src", **({"RAY_ADDRESS": address} if address else {})}


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder with a name short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        yield Path(folder)


def test_the_command_starts_a_ray_of_its_own_gives_the_digest_of_inline_and_leaves_nothing(
    temporary: Path, tmp_path: Path
) -> None:
    env = {**environment(), "TMPDIR": str(temporary)}
    done = subprocess.run([*COMMAND, "--out", tmp_path / "out"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["model_digest"] == DIGEST
    assert _until(lambda: not _of_ray(temporary))
    assert not list(temporary.iterdir())


def test_a_cluster_that_runs_is_joined_and_left_as_it_was(temporary: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    ray = [Path(sys.executable).parent / "ray", "start", "--head", f"--port={address[10:]}", "--num-cpus=2", "--block"]
    quiet = ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={temporary / 'foedus-ray-head'}"]
    # a token of its own: Ray keeps one in the home directory, which another Ray may be writing
    loopback = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    with subprocess.Popen([*ray, *quiet], env={**environment(), **loopback}, stdout=subprocess.PIPE, text=True) as head:
        try:
            assert head.stdout is not None
            assert any("Ray runtime started" in line for line in head.stdout)
            command = [*COMMAND, "--out", tmp_path / "out"]
            done = subprocess.run(command, env={**environment(address), **loopback}, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["data"]["model_digest"] == DIGEST
            assert head.poll() is None
            assert _until(lambda: not any("Actor" in name for name in _of_ray(temporary)))
        finally:
            head.terminate()
            head.communicate(timeout=240)
    assert _until(lambda: not _of_ray(temporary))


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_an_interrupted_command_leaves_no_process_of_ray(sent: signal.Signals, temporary: Path, tmp_path: Path) -> None:
    """Ctrl-C goes to the whole group, as a terminal sends it; SIGTERM to the command, as a service manager sends it."""
    command = [*COMMAND, "--set", "rounds=100000", "--out", tmp_path / "out"]
    env = {**environment(), "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert any(line.startswith(b"round 3/") for line in process.stderr)
        assert len(_of_ray(temporary)) > 2
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        process.stderr.read()
        assert process.wait(timeout=240) == 128 + sent
    assert _until(lambda: not _of_ray(temporary))
    assert not list(temporary.glob("foedus-ray-*"))


def _of_ray(folder: Path) -> list[str]:
    """The names of the processes of the Ray that lives under ``folder``."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            named = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(str(folder / "foedus-ray-") in text for text in named):
            found.append(process.info["name"])
    return found


def _until(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true within some seconds."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False
