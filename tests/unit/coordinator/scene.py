"""A run on a real database and real blobs, with clients that the tests play through the use cases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from foedus.coordinator import assignments, polling, runs, submitting
from foedus.coordinator import nodes as node_cases
from foedus.coordinator.bells import RUNS
from foedus.coordinator.blob_rows import own_blob
from foedus.coordinator.identities import NodeIdentity, Person
from foedus.coordinator.live import Live
from foedus.coordinator.run_rows import find_run
from foedus.coordinator.supervisor import Supervisor
from foedus.domain.codec import encode, encode_tensors
from foedus.domain.errors import FoedusError
from foedus.domain.plan import ModelManifest, ModelTensor, PlanBundle
from foedus.domain.round import Aggregate, Contribution, PhaseOrder, Receipt
from foedus.domain.run import parse_spec
from foedus.domain.tree import State, Tensors, model_digest, names_of_dtypes
from foedus.engine.kernels import Outcome, fold_outcomes
from foedus.engine.round import close_phase, current_phase
from foedus.store.artifacts import Artifacts
from foedus.store.tables import nodes
from foedus.store.unit_of_work import Store
from foedus.strategies.catalogue import build
from foedus.strategies.stopping import next_round
from foedus.strategies.strategy import TRAIN, RunContext
from foedus.wire.messages import (
    Assignment,
    Contribute,
    DatasetView,
    Fail,
    Hello,
    Manifest,
    PlanApproval,
    Poll,
    RunView,
    SubmitRun,
    TensorView,
    Work,
)
from tests.postgres import usual_database

BOOT = "boot-0001"
CLIENTS = ("alpha", "beta", "gamma")
ADA = Person("us_ada", "ada", "org_ada", frozenset({"researcher"}))
PLAN = PlanBundle({"plan.py": b"model = loss = None\n"}, "plan.py")

_opened: list[Store] = []
"""The databases of the scenes since :func:`close_all`."""


def initial_model() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return {"w": torch.randn(5, 3, generator=rng), "b": torch.randn(3, generator=rng), "n": torch.tensor(4)}


def spec(size: int, rounds: int, **changes: Any) -> dict[str, Any]:
    return {
        "plan": "plan.py",
        "rounds": rounds,
        "seed": 1,
        "strategy": {
            "name": "fedavg",
            "local": {"lr": 0.1, "epochs": 1, "batch_size": 10},
            "server": {"optimizer": "adam", "lr": 0.1},
        },
        "cohort": {"size": size},
        "data": {"name": "digits", "tags": ["digits"], "partition": {"name": "iid", "clients": size}},
        **changes,
    }


def contribution(client: str, number: int) -> Contribution:
    """What a client sends in the training phase of a round: any function of both will do."""
    rng = torch.Generator().manual_seed(sum(client.encode()) * 1000 + number)
    parts = {
        "parameters": {name: torch.randn(initial_model()[name].shape, generator=rng) for name in ("w", "b")},
        "buffers": {"n": torch.tensor(number + sum(client.encode()) % 7)},
    }
    return Contribution(client, parts, {"examples": 10.0 + sum(client.encode()) % 9}, {"loss": 1.0 / number})


@dataclass
class Scene:
    """A coordinator's use cases on a folder; ``reopen`` is what a killed and restarted process would see."""

    folder: Path
    size: int = 3
    rounds: int = 2
    changes: dict[str, Any] = field(default_factory=dict)
    lease: float = 60.0

    def __post_init__(self) -> None:
        self.live = self._open()
        self.node_of: dict[str, NodeIdentity] = {}
        self.told: dict[tuple[str, str], set[str]] = {}

    def _open(self) -> Live:
        store = Store(usual_database(self.folder) or f"sqlite:///{self.folder / 'db'}", migrate=True)
        _opened.append(store)
        return Live(store, Artifacts(self.folder), lease=self.lease)

    def reopen(self) -> None:
        """A new process on the same folder."""
        self.live.bells.close()
        self.live.store.close()
        self.live = self._open()

    def enrol(self, client: str, tags: tuple[str, ...] = ("digits",)) -> NodeIdentity:
        node = NodeIdentity(f"nd_{client.replace('-', '')}", f"node-{client}")
        row = {"id": node.id, "name": node.name, "public_key": client, "status": "active", "joined_at": 0.0}
        with self.live.store.transaction("join") as tx:
            tx.execute(nodes.insert().values(**row))
        self.node_of[client] = node
        self.hello(client, tags=tags)
        return node

    def hello(
        self, client: str, boot: str = BOOT, state: str | None = "approved", tags: tuple[str, ...] = ("digits",)
    ) -> None:
        approvals = (PlanApproval(digest=PLAN.digest, state=state),) if state else ()  # type: ignore[arg-type]
        dataset = DatasetView(client=client, tags=tags, examples=100)
        with self.live.store.transaction("hello") as tx:
            node_cases.hello(
                tx, self.node_of[client], Hello(boot=boot, version="1", datasets=(dataset,), approvals=approvals)
            )

    def command(self, **changes: Any) -> SubmitRun:
        kinds = {"w": "parameter", "b": "parameter", "n": "buffer"}
        tensors = tuple(
            TensorView(name=n, shape=tuple(t.shape), dtype=names_of_dtypes[t.dtype], kind=kinds[n], module="Linear")  # type: ignore[arg-type]
            for n, t in initial_model().items()
        )
        fields: dict[str, Any] = {
            "spec": spec(self.size, self.rounds, **self.changes),
            "plan": PLAN.digest,
            "plan_blob": self.live.artifacts.put_bytes(PLAN.to_bytes()),
            "parameters": self.live.artifacts.put_bytes(encode_tensors(initial_model())),
            "manifest": Manifest(tensors=tensors, metrics={"loss": "min", "accuracy": "max"}),
        }
        return SubmitRun(**{**fields, **changes})

    def submit(self) -> str:
        submission = submitting.prepare(self.live.artifacts, self.command())
        with self.live.store.transaction("submit") as tx:
            return submitting.submit(tx, submission, ADA).id

    def show(self, run: str) -> RunView:
        with self.live.store.reading() as tx:
            return runs.show(tx, run)

    def data(self, run: str) -> dict[str, Any]:
        with self.live.store.reading() as tx:
            return dict(find_run(tx, run).data)

    def poll(self, client: str, boot: str = BOOT, held: tuple[str, ...] | None = None) -> Work | None:
        """What a node hears that holds these; by default what it was told, less what it answered or is told to stop."""
        known = self.told.setdefault((client, boot), set())
        poll = Poll(boot=boot, held=tuple(sorted(known)) if held is None else held)
        work = polling.look(self.live, self.node_of[client], poll, time.time())
        if work is not None:
            known |= {assignment.id for assignment in work.assignments}
        if work is None or held is not None:
            return work
        known -= set(work.stop)
        return work if work.assignments or work.plans or work.ended else None

    def take(self, client: str, boot: str = BOOT) -> Assignment:
        """The client's next assignment; waits for the driver."""
        found: list[Assignment] = []
        until(lambda: bool(found.extend(getattr(self.poll(client, boot), "assignments", ())) or found))
        return found[0]

    def message(self, assignment: Assignment, **changes: Any) -> Contribute:
        made = contribution(assignment.client, assignment.round)
        train = assignment.phase == TRAIN
        update = self.live.artifacts.put_bytes(encode(State(made.update))) if train else None
        metrics = dict(made.metrics) if train else {"loss": 1.0, "accuracy": 0.5}
        fields: dict[str, Any] = {
            "token": assignment.token,
            "update": update,
            "weights": dict(made.weights),
            "metrics": metrics,
            "state": f"{assignment.round:064x}" if train else None,
            "seconds": 0.5,
        }
        return Contribute(**{**fields, **changes})

    def contribute(self, assignment: Assignment, **changes: Any) -> str:
        node, message = self.node_of[assignment.client], self.message(assignment, **changes)
        if message.update is not None and self.live.artifacts.has(message.update):
            with self.live.store.transaction("blob") as tx:
                own_blob(tx, self.live.artifacts, message.update, node.actor)
        outcome = assignments.contribute(self.live, node, assignment.id, message).outcome
        self._answered(assignment)
        return outcome

    def fail(self, assignment: Assignment) -> str:
        node = self.node_of[assignment.client]
        message = Fail(token=assignment.token, code="plan_failed", reason="no luck")
        outcome = assignments.fail(self.live, node, assignment.id, message).outcome
        self._answered(assignment)
        return outcome

    def _answered(self, assignment: Assignment) -> None:
        """Hold it no more, as a node does."""
        for (client, _), known in self.told.items():
            if client == assignment.client:
                known.discard(assignment.id)

    def play(self, run: str, clients: tuple[str, ...]) -> None:
        """Contribute for these clients, as often as they are asked, until the run has ended."""

        def step() -> bool:
            for client in clients:
                for assignment in getattr(self.poll(client), "assignments", ()):
                    self.contribute(assignment)
            return self.show(run).status in ("completed", "failed", "cancelled")

        until(step)

    def expected(self, clients: tuple[str, ...]) -> str:
        """The digest of the model that the simulation's way of folding comes to, whole tensors in memory."""
        command = self.command()
        rows = [ModelTensor(t.name, tuple(t.shape), t.dtype, t.kind, t.module) for t in command.manifest.tensors]
        strategy = build(RunContext(parse_spec(command.spec), ModelManifest(tuple(rows), command.manifest.metrics)))
        state = strategy.init(initial_model())
        for number in range(1, self.rounds + 1):
            phase, order = current_phase(strategy, state), PhaseOrder(number, TRAIN, tuple(sorted(clients)))
            sums = phase.aggregator.zero()
            for block in order.blocks:
                outcomes = [Outcome(client, contribution(client, number), State()) for client in block]
                sums = phase.aggregator.merge(sums, fold_outcomes(phase, outcomes).sums)
            aggregate = Aggregate(phase.aggregator.finish(sums), sums.count)
            state, _ = close_phase(strategy, state, order, aggregate, list[Receipt]())
            state = next_round(state)
        model: Tensors = state.tensors["model"]
        return model_digest(model)


def close_all() -> None:
    """Give back what the databases of every scene hold; one may be closed already."""
    while _opened:
        _opened.pop().close()


@contextmanager
def supervised(folder: Path, clients: tuple[str, ...] = CLIENTS) -> Iterator[Scene]:
    """A coordinator whose runs are driven, and that knows these clients; a run asks all of them."""
    made = Scene(folder, size=len(clients))
    for client in clients:
        made.enrol(client)
    supervisor = Supervisor(made.live)
    supervisor.start()
    try:
        yield made
    finally:
        supervisor.stop()
        made.live.store.close()


def begin(scene: Scene) -> str:
    """Submit a run, and have its driver look."""
    run = scene.submit()
    scene.live.bells.ring(RUNS)
    return run


def until(done: Callable[[], bool], seconds: float = 120.0) -> None:
    """Look again and again, with short rests."""
    end, rest = time.monotonic() + seconds, threading.Event()
    while not done():
        assert time.monotonic() < end, "it did not come to pass"
        rest.wait(0.005)


def refusal(action: Callable[[], object]) -> FoedusError:
    """The error that an action ends with."""
    try:
        action()
    except FoedusError as error:
        return error
    raise AssertionError("it was not refused")
