"""The life of runs with a real coordinator and two real nodes: what the DLR FL Demonstrator should do, from outside.

Each node has a dataset of a few numbers and one of many; a run's tags choose. What clients learn is known beforehand.
"""

from __future__ import annotations

import pickle
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.client import runs, webhooks
from foedus.client.blobs import upload
from foedus.client.runs import Submission
from foedus.coordinator.webhooks import signature
from foedus.data.files import write_columns
from foedus.domain.codec import TensorFile, encode_tensors
from foedus.engine.prepare import Prepared
from foedus.node.datasets import add_dataset
from foedus.node.owner import approve, list_plans
from foedus.wire.messages import RunView
from tests.federation import WAIT, LocalFederation, stop, until
from tests.plans import prepared
from tests.receiver import receiving
from tests.unit.coordinator.scene import refusal

NUMBERS = """
import torch
from torch import nn


class Number(nn.Module):
    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.tensor([2.0]))
        self.register_buffer("seen", torch.tensor(5))

    def forward(self, x):
        if self.training:
            self.seen += 2
        return self.number.expand(len(x))


def model():
    return Number()


def loss(output, target):
    return 0.5 * (output[0] - target[0]).square()


def prepare(columns):
    return columns["x"], columns["y"]
"""
"""A step of SGD at learning rate 1 leads to the first example's target, exactly."""

ONE, THREE = "one", "three"
LOCAL = {"lr": 1.0, "batch_size": 100}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Targets 0 at one node and 4 at the other, in 1 and 3 examples (`few`), or in ten at each (`many`)."""
    folder = tmp_path_factory.mktemp("lifecycle")
    config = folder / "coordinator.toml"
    config.write_text('[webhooks]\nhosts = ["127.0.0.1"]\nattempts = 5\nbackoff = 0.05\n')
    with LocalFederation(folder) as running:
        running.start_coordinator(FOEDUS_COORDINATOR_CONFIG=str(config))
        for client, examples, target in ((ONE, 1, 0.0), (THREE, 3, 4.0)):
            for tag, count in (("few", examples), ("many", 10)):
                path = folder / f"{client}-{tag}.npz"
                write_columns(path, {"x": torch.zeros(count, 1), "y": torch.full((count,), target)})
                if tag == "few":
                    running.enrol(client, path, (tag,))
                else:
                    add_dataset(running.home(client), path, f"{client}-{tag}", (tag,))
            running.start_node(client)
        running.greeted()
        yield running


def ready(folder: Path, tag: str, plan: str = NUMBERS, **changes: Any) -> Prepared:
    """A run on the datasets with a tag, over both nodes."""
    few = {"test": {"ratio": 0.0}} if tag == "few" else {}
    table = {"data": {"name": "digits", "tags": [tag]}, "cohort": {"size": 2}, **few}
    return prepared(folder, plan, **{**table, "strategy": {"name": "fedavg", "local": LOCAL}, **changes})


def finish(federation: LocalFederation, made: Prepared) -> RunView:
    """Submit a run, have its plan approved, and wait for its end."""
    run = federation.submit(made)
    allow(federation, made)
    return federation.finish(run)


def allow(federation: LocalFederation, made: Prepared) -> None:
    digest = made.bundle.digest
    for client in federation.nodes:
        home = federation.home(client)
        until("the plan is offered", lambda h=home: digest in {plan.digest for plan in list_plans(h)})
        approve(home, digest)


def draft(federation: LocalFederation, made: Prepared) -> str:
    submission = Submission(made.spec, made.bundle, encode_tensors(made.model), made.manifest)
    with federation.connection() as connection:
        return runs.submit(connection, submission, draft=True).id


@contextmanager
def asleep(federation: LocalFederation, client: str) -> Iterator[None]:
    """Stop a node's processes for a while, as a machine that sleeps."""
    process = federation.nodes[client]
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_d2_d6_d15_the_weighted_mean_is_exact_and_every_version_and_update_is_addressable(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """Weights 0 and 4 by sizes 1 and 3 give 3; the integer buffer keeps dtype and value; lineage names it all."""
    trainer = {"delete_local_models_after_aggregation": False}
    made = ready(tmp_path, "few", trainer=trainer)
    view = finish(federation, made)
    assert (view.status, view.reason) == ("completed", "")
    with federation.connection() as connection:
        listed = runs.models(connection, view.id)
        for number, value in ((0, 2.0), (1, 3.0), (2, 3.0)):
            runs.download_model(connection, view.id, number, tmp_path / f"{number}.safetensors")
            with TensorFile(tmp_path / f"{number}.safetensors") as model:
                assert dict(model)["number"].tolist() == [value]
                assert dict(model)["seen"].dtype == torch.int64 and dict(model)["seen"].item() == 5 + 2 * number
        descent, first = runs.lineage(connection, view.id, 2), runs.lineage(connection, view.id, 0)
        updates = runs.updates(connection, view.id, 1)
        files = runs.download_updates(connection, view.id, 1, tmp_path / "updates")
        assert refusal(lambda: runs.model(connection, view.id, 7)).code == "model_missing"
    assert [model.round for model in listed] == [0, 1, 2]
    assert (descent.model, descent.parent) == (listed[2], listed[1])
    weights = {one.client: one.weights for one in descent.contributions}
    assert weights == {ONE: {"examples": 1.0}, THREE: {"examples": 3.0}}
    assert (descent.plan, descent.strategy, descent.author) == (made.bundle.digest, "fedavg", "admin")
    assert (first.parent, first.contributions) == (None, ())
    assert [(one.client, one.kept) for one in updates] == [(ONE, True), (THREE, True)]
    assert [path.name for path in files] == [f"{ONE}.safetensors", f"{THREE}.safetensors"]
    for path, difference in zip(files, (2.0, -2.0), strict=True):
        with TensorFile(path) as update:
            assert dict(update)["parameters/number"].tolist() == [difference]


def test_d1_d14_case_30_a_draft_is_started_once_and_each_step_is_told_in_order_and_survives_a_kill(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """The sender is killed after an event was delivered and before that was noted: it comes again, under its id."""
    made = ready(tmp_path, "many")
    other, run = draft(federation, made), draft(federation, made)
    with federation.connection() as connection:
        assert runs.start(connection, other).status == "waiting"
        twice = refusal(lambda: runs.start(connection, other))
        assert (twice.code, twice.http_status) == ("run_started", 400)
        runs.cancel(connection, other)
    config = str(federation.folder / "coordinator.toml")
    assert federation.coordinator is not None
    stop(federation.coordinator)
    federation.start_coordinator(FOEDUS_COORDINATOR_CONFIG=config, FOEDUS_CRASH="commit:delivered:before:3")
    victim = federation.coordinator
    with receiving() as receiver, federation.connection() as connection:
        hook = webhooks.add(connection, run, receiver.url)
        assert refusal(lambda: webhooks.add(connection, run, "https://169.254.169.254/x")).code == "target_refused"
        assert runs.start(connection, run).status == "waiting"
        allow(federation, made)
        assert victim.wait(WAIT) == -signal.SIGKILL
        federation.start_coordinator(FOEDUS_COORDINATOR_CONFIG=config)
        view = federation.finish(run)
        followed = [event.name for event in runs.events(connection, run)]
        until("all is delivered", lambda: webhooks.listed(connection, run)[0].pending == 0)
        delivered = webhooks.listed(connection, run)[0].delivered
    one_round = [f"round_{stage}" for stage in ("started", "reporting", "aggregating", "testing", "committed")]
    expected = ["run_drafted", "run_waiting", "run_started", *one_round, *one_round, "run_completed"]
    assert followed == expected
    once = dict(zip(receiver.ids, receiver.events, strict=True))
    assert len(receiver.ids) == len(once) + 1, "one came twice, under one id"
    assert [event.kind for event in once.values()] == expected[1:] and delivered == len(once)
    assert [event.id for event in once.values()] == list(range(2, len(expected) + 1))
    demonstrator = {"run_started", "round_started", "round_testing", "run_completed"}
    told = [(event.kind, event.round) for event in once.values() if event.kind in demonstrator]
    by_round = [(kind, number) for number in (1, 2) for kind in ("round_started", "round_testing")]
    assert told == [("run_started", 0), *by_round, ("run_completed", 0)]
    assert all(event.run == run and len(event.model) == 64 for event in once.values())
    tested = [event.model for event in once.values() if event.kind == "round_testing"]
    with federation.connection() as connection:
        assert tested == [model.blob for model in runs.models(connection, run)[1:]]
    for headers, body in receiver.came:
        signed = signature(hook.secret, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
        assert headers["webhook-signature"] == signed
    assert view.status == "completed"


@pytest.mark.parametrize(
    ("trainer", "tested"),
    [
        ({}, [["train", "test"], ["train", "test"], ["train", "test"]]),
        ({"skip_model_tests": True}, [["train"], ["train"], ["train"]]),
        ({"model_test_after_each_round": False}, [["train"], ["train"], ["train", "test"]]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_d5_tests_come_after_each_round_or_after_the_last_one_or_never(
    trainer: dict[str, bool], tested: list[list[str]], federation: LocalFederation, tmp_path: Path
) -> None:
    view = finish(federation, ready(tmp_path, "many", trainer=trainer, rounds=3))
    with federation.connection() as connection:
        records = runs.rounds(connection, view.id).rounds
        events = [event.name for event in runs.events(connection, view.id)]
        updates = runs.updates(connection, view.id, 1)
        assert refusal(lambda: runs.download_updates(connection, view.id, 1, tmp_path)).code == "updates_not_kept"
    assert [[phase.phase for phase in record.phases] for record in records] == tested
    assert events.count("round_testing") == sum("test" in phases for phases in tested)
    assert [(one.client, one.kept) for one in updates] == [(f"{ONE}-many", False), (f"{THREE}-many", False)]


def test_d7_a_client_that_drops_out_does_not_stall(federation: LocalFederation, tmp_path: Path) -> None:
    """One fails; one is silent and enough others are not; one is silent, and both are needed until the deadline."""
    failing = NUMBERS.replace("return columns", "assert columns['y'][0] == 0, 'not mine'\n    return columns")
    view = finish(federation, ready(tmp_path, "many", failing, rounds=1))
    with federation.connection() as connection:
        failed = runs.lineage(connection, view.id, 1).failed
    assert (view.status, failed) == ("completed", (f"{THREE}-many",))
    once = {"rounds": 1, "trainer": {"skip_model_tests": True}}
    finish(federation, ready(tmp_path, "many", **once))
    with asleep(federation, THREE):
        enough = ready(tmp_path, "many", cohort={"size": 1, "population": 2, "over_selection": 2.0}, **once)
        assert federation.finish(federation.submit(enough)).status == "completed"
        soon = {"name": "synchronous", "deadline": 0.5}
        both = ready(tmp_path, "many", cohort={"size": 2, "minimum": 2}, schedule=soon, **once)
        view = federation.finish(federation.submit(both))
    assert (view.status, view.stage) == ("failed", "abandoned")
    assert view.reason.startswith("too_few_contributions") and "of 2 contributed" in view.reason
    with federation.connection() as connection:
        events = [event.name for event in runs.events(connection, view.id)]
    assert events.count("round_abandoned") == 3 and events[-1] == "run_failed"


def test_case_27_nodes_stop_working_for_a_run_that_is_paused_and_for_one_that_is_cancelled(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """A node does one thing after another, so that others' runs come to their end shows that it has stopped."""
    short = ready(tmp_path, "many", rounds=1)
    finish(federation, short)
    slow = "import time\n" + NUMBERS.replace("    return 0.5", "    time.sleep(0.05)\n    return 0.5")
    endless = ready(tmp_path, "many", slow, strategy={"name": "fedavg", "local": {**LOCAL, "epochs": 10_000}})
    run = federation.submit(endless)
    allow(federation, endless)
    for verb, there in ((runs.pause, "paused"), (runs.cancel, "cancelled")):
        until("both work", lambda: [c.status for c in federation.show(run).clients] == ["working", "working"])
        with federation.connection() as connection:
            assert verb(connection, run).status == there
            assert federation.finish(federation.submit(short)).status == "completed"
            assert federation.show(run).status == there
            if there == "paused":
                assert runs.resume(connection, run).status == "running"
    with federation.connection() as connection:
        told = [event.name for event in runs.events(connection, run)]
    assert told[-2:] == ["run_cancelled", "round_abandoned"] and told.count("run_started") == 1


@pytest.mark.soak
@pytest.mark.parametrize(
    "place", ["start_draft:after", "pause_run:before", "pause_run:after", "resume_run:before", "resume_run:after"]
)
def test_case_27_a_kill_while_a_run_is_steered_makes_each_move_once(
    place: str, federation: LocalFederation, tmp_path: Path
) -> None:
    made = ready(tmp_path, "many", rounds=2)
    whole = finish(federation, made).model_digest
    assert federation.coordinator is not None
    stop(federation.coordinator)
    config = str(federation.folder / "coordinator.toml")
    federation.start_coordinator(FOEDUS_COORDINATOR_CONFIG=config, FOEDUS_CRASH=f"commit:{place}:1")
    victim = federation.coordinator

    def revive() -> None:
        victim.wait()
        federation.start_coordinator(FOEDUS_COORDINATOR_CONFIG=config)

    reviver = threading.Thread(target=revive)
    reviver.start()
    try:
        run = draft(federation, made)
        with federation.connection() as connection:
            runs.start(connection, run)
            assert runs.pause(connection, run).status == "paused"
            assert runs.resume(connection, run).status in ("waiting", "running")
        view = federation.finish(run)
    finally:
        if victim.poll() is None:
            stop(victim)
        reviver.join()
    assert (victim.returncode, view.status, view.model_digest) == (-signal.SIGKILL, "completed", whole)
    with federation.connection() as connection:
        told = [event.name for event in runs.events(connection, run)]
    for kind in ("run_drafted", "run_waiting", "run_started", "run_paused", "run_resumed", "run_completed"):
        assert told.count(kind) == 1


def test_d8_an_update_that_is_lost_fails_the_run_in_plain_sight_and_a_retry_mends_it(
    federation: LocalFederation, tmp_path: Path
) -> None:
    made = ready(tmp_path, "few", name="mended")
    whole = finish(federation, made).model_digest
    with asleep(federation, THREE):
        run = federation.submit(made)
        until("one has contributed", lambda: contributed(federation, run, ONE))
        assert federation.show(run).stage == "reporting"
        assert lose_updates(federation) > 0
    view = federation.finish(run)
    assert (view.status, view.stage) == ("failed", "aggregating")
    assert view.reason.startswith("aggregation_failed") and "foedus run retry" in view.reason
    with federation.connection() as connection:
        assert runs.retry(connection, run).status == "running"
    view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", whole)


def contributed(federation: LocalFederation, run: str, client: str) -> bool:
    """Whether the coordinator has counted a client's contribution."""
    database = f"file:{federation.folder / 'coordinator' / 'coordinator.db'}?mode=ro"
    with closing(sqlite3.connect(database, uri=True)) as connection:
        query = "SELECT count(*) FROM assignments WHERE run_id = ? AND client = ? AND status = 'done'"
        return bool(connection.execute(query, (run, client)).fetchone()[0])


def lose_updates(federation: LocalFederation) -> int:
    """Remove every update that the coordinator has on disk, as a disk that fails; how many there were."""
    lost = 0
    for path in (federation.folder / "coordinator" / "blobs").glob("??/*"):
        with suppress(FileNotFoundError):  # the coordinator removes what nobody needs any more
            if b"parameters/number" in path.read_bytes()[:1000]:
                path.unlink()
                lost += 1
    return lost


def test_d9_a_pickle_in_place_of_a_model_is_refused_and_never_run(federation: LocalFederation, tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    made = ready(tmp_path, "few")
    submission = Submission(made.spec, made.bundle, pickle.dumps(Malicious(str(proof))), made.manifest)
    with federation.connection() as connection:
        before = len(runs.list_runs(connection))
        error = refusal(lambda: runs.submit(connection, submission))
        assert (error.code, error.http_status) == ("not_safetensors", 422)
        assert len(runs.list_runs(connection)) == before
        assert upload(connection, submission.parameters)
    assert not proof.exists()


class Malicious:
    """Runs a command where it is unpickled."""

    def __init__(self, proof: str) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.proof, "w"))
