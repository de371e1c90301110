"""Replicas on one PostgreSQL behind a balancer: one leads a run, and where it is killed or paused nothing is lost."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from foedus.engine.choice import Engine
from foedus.engine.simulate import simulate
from foedus.wire.messages import RunView
from tests.balancer import Balancer
from tests.federation import LocalFederation, parts_of, stop, until
from tests.plans import prepared
from tests.ports import free_port
from tests.postgres import Postgres

LEASE = 8.0
"""Seconds: a leader on a busy machine renews it in time."""

ROUNDS = 12
DATA = {
    "name": "digits",
    "tags": ["digits"],
    "held_out": 0.2,
    "partition": {"name": "dirichlet", "alpha": 0.3, "clients": 2},
}


@dataclass
class Replicas:
    """Coordinators by name, a balancer before them, and a federation of nodes that knows the balancer alone."""

    federation: LocalFederation
    balancer: Balancer
    postgres: Postgres
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start a replica, and let the balancer know it."""
        port = self.ports[name] = free_port()
        environment = {"FOEDUS_COORDINATOR_REPLICA": name, "FOEDUS_COORDINATOR_LEADER_LEASE": str(LEASE)}
        process = self.federation.spawn_coordinator(self.log(name), port, **environment)
        self.processes[name] = process
        until(
            f"{name} starts, see {self.log(name)}", lambda: process.poll() is not None or self.federation.is_ready(port)
        )
        assert process.poll() is None, self.log(name).read_text()
        self.balancer.replicas.append(port)

    def log(self, name: str) -> Path:
        """What a replica wrote."""
        return self.federation.folder / f"replica-{name}.log"

    def ask(self, statement: str) -> str:
        """What the database answers."""
        return self.postgres.sql(statement, self.federation.database.rpartition("/")[2])

    def leader(self, run: str) -> str:
        """Who leads the run; empty where nobody does."""
        return self.ask(f"SELECT replica FROM leaders WHERE run_id = '{run}'")

    def leads(self, run: str, *others: str) -> str:
        """Wait until somebody but ``others`` leads; who it is."""
        until("somebody leads", lambda: self.leader(run) not in ("", *others))
        return self.leader(run)

    def epoch(self, run: str) -> int:
        """The run's epoch."""
        return int(self.ask(f"SELECT epoch FROM runs WHERE id = '{run}'"))

    def committed(self, run: str) -> int:
        """Rounds that were committed."""
        return int(self.ask(f"SELECT count(*) FROM rounds WHERE round > 0 AND run_id = '{run}'"))


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Replicas]:
    """Two replicas, and two nodes that have approved the plan."""
    folder, balancer = tmp_path_factory.mktemp("replicas"), Balancer([])
    federation = LocalFederation(folder, port=balancer.port, database=postgres.fresh())
    made = Replicas(federation, balancer, postgres)
    with ExitStack() as stack:
        stack.callback(balancer.close)
        stack.callback(federation.__exit__)
        stack.callback(_stop_all, made)
        for name in "ab":
            made.start(name)
            if not federation.token:
                log = made.log(name)
                until("the token is shown", lambda log=log: "fdp_" in log.read_text())
                federation.token = "fdp_" + log.read_text().split("fdp_")[1].split()[0]
        for client, path in parts_of(prepared(folder, data=DATA), folder / "parts").items():
            federation.enrol(client, path)
            federation.start_node(client)
        yield made


def _stop_all(made: Replicas) -> None:
    for process in made.processes.values():
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            stop(process)


def _submit(made: Replicas, folder: Path, lr: float) -> tuple[str, str]:
    """A run, and the digest that its simulation ends with; each has a rate of its own, so that nothing is cached."""
    strategy = {"name": "fedavg", "local": {"lr": lr, "batch_size": 10}}
    run = prepared(folder, rounds=ROUNDS, data=DATA, cohort={"size": 2}, strategy=strategy)
    name = made.federation.submit(run)
    made.federation.approve_all(run.bundle.digest)
    return name, simulate(run, Engine("eager", "inline")).model_digest


def _check(made: Replicas, view: RunView, digest: str) -> None:
    """The run ended with the simulation's bytes; every round was committed once, and each client counted once in it."""
    assert (view.status, view.reason, view.model_digest) == ("completed", "", digest)
    numbers = made.ask(f"SELECT string_agg(round::text, ',' ORDER BY round) FROM rounds WHERE run_id = '{view.id}'")
    assert numbers == ",".join(map(str, range(ROUNDS + 1)))
    done = f"FROM assignments WHERE run_id = '{view.id}' AND status = 'done' AND phase = 'train'"
    assert made.ask(f"SELECT count(*), count(DISTINCT (round, client)) {done}") == f"{2 * ROUNDS}|{2 * ROUNDS}"


def test_case_17_one_of_the_replicas_on_a_database_leads_and_another_takes_over_when_it_is_killed(
    replicas: Replicas, tmp_path: Path
) -> None:
    run, digest = _submit(replicas, tmp_path, 0.1)
    first = replicas.leads(run)
    until("a round is committed", lambda: replicas.committed(run) >= 1)
    assert replicas.leader(run) == first, "the other left it alone while it was well"
    epoch = replicas.epoch(run)
    stop(replicas.processes[first], signal.SIGKILL)
    replicas.leads(run, first)
    assert replicas.epoch(run) > epoch
    _check(replicas, replicas.federation.finish(run), digest)
    replicas.start(f"{first}2")


def test_case_18_a_paused_leader_is_refused_when_it_wakes(replicas: Replicas, tmp_path: Path) -> None:
    run, digest = _submit(replicas, tmp_path, 0.11)
    first = replicas.leads(run)
    until("a round is committed", lambda: replicas.committed(run) >= 1)
    replicas.processes[first].send_signal(signal.SIGSTOP)
    replicas.balancer.replicas.remove(replicas.ports[first])
    replicas.ask(f"UPDATE leaders SET until = until - {LEASE}")  # so long it has been silent
    second = replicas.leads(run, first)
    epoch = replicas.epoch(run)
    replicas.processes[first].send_signal(signal.SIGCONT)
    replicas.balancer.replicas.append(replicas.ports[first])
    noticed = rf"run {run} was taken over by ({second}|another replica)"  # the second may have ended it by then
    until("the first has noticed", lambda: re.search(noticed, replicas.log(first).read_text()))
    _check(replicas, replicas.federation.finish(run), digest)
    assert replicas.epoch(run) == epoch, "the first wrote nothing"
    assert replicas.processes[first].poll() is None, "and goes on serving"
