"""Simulation: the driver on a virtual clock, with client work done by an executor in place of nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from foedus.data.catalogue import Federation, federate
from foedus.data.dataset import ClientData, prepare_client
from foedus.domain.round import RoundRecord
from foedus.domain.tree import Tensors, model_digest
from foedus.engine.choice import Choice, Engine, choose
from foedus.engine.driver import drive
from foedus.engine.observers import Observer
from foedus.engine.prepare import Prepared
from foedus.engine.virtual import VirtualPort
from foedus.local.evaluate import measure
from foedus.local.objective import EagerObjective


@dataclass(frozen=True)
class Result:
    """What a simulation came to. ``held_out``: loss and metrics on the part that belongs to no client."""

    model: Tensors
    rounds: tuple[RoundRecord, ...]
    held_out: dict[str, float]
    seconds: float
    choice: Choice

    @property
    def model_digest(self) -> str:
        """The digest of the final model."""
        return model_digest(self.model)


@dataclass
class Clients:
    """The simulated clients' data, prepared by the plan when it is first asked for."""

    prepared: Prepared
    federation: Federation
    ready: dict[str, ClientData] = field(default_factory=dict)

    def __call__(self, name: str) -> ClientData:
        """One client's prepared data."""
        if name not in self.ready:
            spec = self.prepared.spec
            columns = self.federation.clients[name]
            self.ready[name] = prepare_client(name, columns, self.prepared.plan.prepare, spec.test.ratio, spec.seed)
        return self.ready[name]


def client_data(prepared: Prepared) -> dict[str, ClientData]:
    """Every simulated client's prepared data, by name."""
    clients = Clients(prepared, federate(prepared.spec, prepared.base))
    return {name: clients(name) for name in sorted(clients.federation.clients)}


def simulate(prepared: Prepared, engine: Engine, observers: Sequence[Observer] = ()) -> Result:
    """Run every round of a run in this process (and its workers), and measure the model on the held-out part.

    Raises:
        ConfigError, PlanError, DataError: before round 1.
        QuorumError: where too few clients could contribute.
    """
    return simulate_on(prepared, federate(prepared.spec, prepared.base), engine, observers)


def simulate_on(
    prepared: Prepared, federation: Federation, engine: Engine, observers: Sequence[Observer] = ()
) -> Result:
    """As :func:`simulate`, on clients and a held-out part that were loaded."""
    began = time.monotonic()
    clients = Clients(prepared, federation)
    names = tuple(sorted(federation.clients))
    executor, choice = choose(engine, prepared, clients, names)
    port = VirtualPort(prepared, names, executor, observers)
    try:
        state = drive(prepared.strategy, prepared.spec.rounds, prepared.spec.seed, port)
    finally:
        executor.close()
    model = state.tensors["model"]
    for observer in observers:
        observer.finished(model)
    held_out = measure_held_out(prepared, federation, model)
    return Result(model, tuple(port.records), held_out, time.monotonic() - began, choice)


def measure_held_out(prepared: Prepared, federation: Federation, model: Tensors) -> dict[str, float]:
    """Loss and metrics of a model on the part that belongs to no client; empty where there is none."""
    if federation.held_out is None:
        return {}
    data = prepare_client("held_out", federation.held_out, prepared.plan.prepare, 0.0, prepared.spec.seed)
    return measure(EagerObjective(prepared.plan, prepared.spec.seed), model, data.train)
