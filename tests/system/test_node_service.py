"""A node as a service: real processes that drain, begin anew, are killed, and leave a log that tells it all."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from foedus.cli.live import watch
from foedus.cli.main import execute
from foedus.client import progress
from foedus.domain.errors import IntegrityError
from foedus.domain.track import TrackTable
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import simulate
from foedus.node import wishes
from foedus.node.datasets import add_dataset
from foedus.node.owner import remove_dataset
from foedus.node.security import SecurityLog
from foedus.sandbox.bubblewrap import unavailable
from tests.federation import WAIT, LocalFederation, start_federation, stop, until
from tests.plans import DIGITS, prepared

DATA = {
    "name": "digits",
    "tags": ["digits"],
    "held_out": 0.2,
    "partition": {"name": "dirichlet", "alpha": 0.3, "clients": 2},
}
HERE = "c0000"
SECURITY = {
    "initialised",
    "joined",
    "dataset_added",
    "dataset_removed",
    "plan_seen",
    "approved",
    "request",
    "round_started",
    "round_ended",
}
SLOW = "import time\n" + DIGITS.replace(
    "    return nn.functional.cross_entropy(output, target)",
    "    time.sleep(0.02)\n    return nn.functional.cross_entropy(output, target)",
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two nodes that have worked for one run of two rounds."""
    folder = tmp_path_factory.mktemp("service")
    ready = made(folder)
    with start_federation(folder, ready) as running:
        run = running.submit(ready)
        running.approve_all(ready.bundle.digest)
        assert running.finish(run).status == "completed"
        yield running


def made(folder: Path, plan: str = DIGITS, **local: Any) -> Prepared:
    strategy = {"name": "fedavg", "local": {"lr": 0.1, "batch_size": 10, **local}}
    return prepared(folder, plan, data=DATA, cohort={"size": 2}, strategy=strategy)


def simulated(ready: Prepared) -> str:
    return simulate(ready, Engine("eager", "inline")).model_digest


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str


def foedus(*words: str) -> Ran:
    """A command, in this process: to start one takes longer than what it does."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = execute(words)
    return Ran(code, out.getvalue(), err.getvalue())


def told(*words: str, home: Path) -> Any:
    """What ``foedus node …`` says as JSON."""
    done = foedus("node", *words, "--home", str(home), "--json")
    assert done.code == 0, done.err + done.out
    return json.loads(done.out)["data"]


def working(home: Path) -> bool:
    now = wishes.status(home)
    return bool(now and any(each.since for each in now.working))


def test_f15_one_line_of_json_for_each_approval_dataset_change_request_and_rounds_start_and_end(
    federation: LocalFederation,
) -> None:
    """And no line that is not about security."""
    home = federation.home(HERE)
    add_dataset(home, next((federation.folder / "parts").glob("*.npz")), "extra", ("other",))
    remove_dataset(home, "extra")

    def written() -> list[Any]:
        paths = sorted(home.glob("audit/*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    until("the last end is written", lambda: [line["event"] for line in written()].count("round_ended") == 4)
    lines = written()
    events = [line["event"] for line in lines]
    assert set(events) == SECURITY
    assert [events.count(one) for one in ("approved", "dataset_added", "dataset_removed", "plan_seen")] == [1, 2, 1, 1]
    asked = [line["facts"] for line in lines if line["event"] == "request"]
    assert [(each["round"], each["phase"]) for each in asked] == [(1, "train"), (1, "test"), (2, "train"), (2, "test")]
    for kind in ("round_started", "round_ended"):
        found = [line["facts"]["assignment"] for line in lines if line["event"] == kind]
        assert found == [each["assignment"] for each in asked]
    assert {line["facts"]["outcome"] for line in lines if line["event"] == "round_ended"} == {"contributed"}
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    verified = told("audit", "--verify", home=home)
    assert verified["entries"] == len(lines)
    assert [each["event"] for each in told("audit", "--event", "approved", home=home)["entries"]] == ["approved"]
    path = next(home.glob("audit/*.jsonl"))
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"approved"', b'"rejected"'))
    broken = foedus("node", "audit", "--verify", "--home", str(home))
    assert broken.code == IntegrityError.exit_code
    assert f"line {events.index('approved') + 1}: its text was changed" in broken.err
    path.write_bytes(before)


def test_status_history_and_logs_tell_where_a_node_is_and_what_it_did(federation: LocalFederation) -> None:
    home = federation.home(HERE)
    until("the node says that it is done", lambda: told("status", home=home)["working"] == [])
    status = told("status", home=home)
    assert (status["state"], status["pid"]) == ("running", federation.nodes[HERE].pid)
    assert (status["name"], status["coordinator"]) == (f"node-{HERE}", federation.url)
    assert [each["name"] for each in status["datasets"]] == [HERE]
    assert (status["pending"], status["working"]) == ([], [])
    assert status["sandbox"] == ("off" if unavailable() else "bubblewrap")
    assert status["contact"] >= status["since"]
    work = told("history", home=home)["work"]
    assert [(each["round"], each["phase"], each["outcome"]) for each in work[:2]] == [
        (1, "train", "contributed"),
        (1, "test", "contributed"),
    ]
    assert all(each["client"] == HERE and each["seconds"] > 0 and len(each["plan"]) == 64 for each in work)
    logs = told("logs", home=home)["lines"]
    assert any("is up" in line for line in logs) and any("round 2" in line for line in logs)
    for words in (("status",), ("history",), ("logs",), ("audit",)):
        shown = foedus("node", *words, "--home", str(home))
        assert shown.code == 0 and shown.out.strip(), shown.err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_losses_and_what_is_used_stream_at_log_interval_to_the_coordinator_and_to_tensorboard(
    federation: LocalFederation, tmp_path: Path
) -> None:
    ready = made(tmp_path, SLOW, num_updates=160, log_interval=4)
    spec = ready.spec.model_copy(update={"track": TrackTable(tensorboard=str(tmp_path / "board"))})
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    with federation.connection() as connection:
        watch(connection, run, tmp_path / "run", replace(ready, spec=spec))
        found = [each for each in progress.read(connection, run, client=HERE) if each.round == 1]
        newest = progress.newest(connection, run, 1)
    trained = [each for each in found if each.phase == "train"]
    points = [point for each in trained for point in each.points]
    sent = [point.step for point in points]
    assert sent == sorted(set(sent)) and set(sent) <= set(range(4, 161, 4)), "what is lost is lost, and no more"
    assert len(trained) > 1 and trained[0].at < trained[-1].at, "told while it went on"
    assert all(point.steps == 160 and 0 < point.values["loss"] < 10 for point in points)
    assert all(each.cpu > 0 and each.memory > 50 << 20 and each.lines == () for each in found)
    assert newest[0].round == 2
    shown = foedus("run", "history", run, "--coordinator", federation.url, "--token", federation.token)
    assert "/160" in shown.out and "loss" in shown.out, shown.err
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = reader.EventAccumulator(str(tmp_path / "board" / "run"))
    board.Reload()
    drawn = {each.step: each.value for each in board.Scalars(f"work/{HERE}/train/loss")}
    assert list(drawn) == sorted(drawn), "the rounds' steps one after another"
    assert [drawn[point.step] for point in points] == pytest.approx([point.values["loss"] for point in points])


def test_a_node_that_drains_finishes_its_work_takes_no_more_and_ends(
    federation: LocalFederation, tmp_path: Path
) -> None:
    ready, home = made(tmp_path, SLOW, num_updates=100), federation.home(HERE)
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    until("the node works", lambda: working(home))
    assert told("drain", "--wait", "0", home=home)["wish"] == "drain"
    with suppress(FileNotFoundError):  # the node takes it away
        assert (home / wishes.CONTROL).stat().st_mode & 0o077 == 0
    assert federation.nodes[HERE].wait(WAIT) == 0
    last = told("history", home=home)["work"][-1]
    assert (last["run"], last["round"], last["outcome"]) == (run, 1, "contributed")
    assert told("status", home=home)["state"] == "stopped"
    again = foedus("node", "drain", "--home", str(home))
    assert "node_not_running" in again.err
    federation.start_node(HERE)
    view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", simulated(ready))


@pytest.mark.soak
def test_a_restart_and_a_stop_lose_nothing(federation: LocalFederation, tmp_path: Path) -> None:
    """The node begins anew in the same process, with its state; stopped in the middle, it is asked again."""
    ready, home = made(tmp_path, SLOW, num_updates=61), federation.home(HERE)
    process, before = federation.nodes[HERE], told("status", home=home)
    run = federation.submit(ready)
    until("the node works", lambda: federation.approve_all(ready.bundle.digest) or working(home))
    told("restart", home=home)
    after = told("status", home=home)
    assert (after["state"], after["pid"], process.poll()) == ("running", before["pid"], None)
    assert after["since"] > before["since"]
    until("the node works", lambda: working(home))
    told("stop", home=home)
    assert process.wait(20) == 0
    assert [each["outcome"] for each in told("history", "--run", run, home=home)["work"]][-1] == "withdrawn"
    federation.start_node(HERE, FOEDUS_NODE_DRAIN_SECONDS="60")
    view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", simulated(ready))


def test_sigterm_drains_and_a_node_killed_in_the_middle_of_a_line_repairs_its_log(
    federation: LocalFederation, tmp_path: Path
) -> None:
    ready, home = made(tmp_path, SLOW, num_updates=62), federation.home(HERE)
    stop(federation.nodes[HERE])
    federation.start_node(HERE, FOEDUS_NODE_DRAIN_SECONDS="600")
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    until("the node works", lambda: working(home))
    federation.nodes[HERE].send_signal(signal.SIGTERM)
    assert federation.nodes[HERE].wait(WAIT) == 0
    assert told("history", home=home)["work"][-1]["outcome"] == "contributed"
    federation.start_node(HERE)
    until("the node works again", lambda: working(home))
    federation.nodes[HERE].kill()
    federation.nodes[HERE].wait()
    path = max(home.glob("audit/*.jsonl"))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq": 99, "at": "2026-')
    assert "was not finished (24 bytes)" in foedus("node", "audit", "--verify", "--home", str(home)).out
    federation.start_node(HERE)
    view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", simulated(ready))
    log = SecurityLog(home)
    assert [each.facts for each in log.newest(9, "log_repaired")] == [{"bytes": 24}]
    assert path.read_bytes().startswith(whole) and log.verify().broken == ""
