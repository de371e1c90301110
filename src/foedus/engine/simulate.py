"""Simulation: the driver on a virtual clock, with client work done by an executor in place of nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foedus.data.catalogue import federate
from foedus.data.dataset import ClientData, Columns, Examples, prepare_client
from foedus.data.population import Federation
from foedus.domain.errors import ConfigError
from foedus.domain.garbage import settled
from foedus.domain.round import RoundRecord
from foedus.domain.tree import Tensors, model_digest
from foedus.engine.choice import Choice, Engine, choose
from foedus.engine.clients import Clients
from foedus.engine.debug import DebuggingExecutor, Scene
from foedus.engine.driver import drive
from foedus.engine.fits import available_bytes, check_fits
from foedus.engine.observers import Observer
from foedus.engine.pacing import pacing
from foedus.engine.prepare import Prepared
from foedus.engine.profile import Profile, ProfiledExecutor, on_the_clock, untimed
from foedus.engine.snapshot import Keeper
from foedus.engine.virtual import Setting, VirtualPort
from foedus.local.evaluate import measure
from foedus.local.kinds import objective_of
from foedus.strategies.stopping import stopped


@dataclass(frozen=True)
class Tools:
    """What looks into a simulation: ``debug`` is told what failing clients were doing, and ``profile`` is a clock."""

    debug: Callable[[str], None] | None = None
    profile: Profile | None = None


@dataclass(frozen=True)
class Result:
    """What a simulation came to. ``held_out``: loss and metrics on the part that belongs to no client.

    ``rounds``: the last records, as many as :class:`Recent` keeps; rounds.jsonl has them all. ``stopped``: why the run
    ended before its last round, where it did.
    """

    model: Tensors
    rounds: tuple[RoundRecord, ...]
    held_out: dict[str, float]
    seconds: float
    choice: Choice
    stopped: str = ""

    @property
    def model_digest(self) -> str:
        """The digest of the final model."""
        return model_digest(self.model)


def client_data(prepared: Prepared) -> dict[str, ClientData]:
    """Every simulated client's prepared data, by name."""
    clients = Clients(prepared, federate(prepared.spec, prepared.base, prepared.alignment))
    return {name: clients(name) for name in clients.federation.names}


def simulate(
    prepared: Prepared,
    engine: Engine,
    observers: Sequence[Observer] = (),
    keeper: Keeper | None = None,
    tools: Tools | None = None,
) -> Result:
    """Run every round of a run in this process (and its workers), and measure the model on the held-out part.

    Raises:
        ConfigError, PlanError, DataError: before round 1.
        QuorumError: where too few clients could contribute.
    """
    return simulate_on(
        prepared, federate(prepared.spec, prepared.base, prepared.alignment), engine, observers, keeper, tools
    )


def simulate_on(
    prepared: Prepared,
    federation: Federation,
    engine: Engine,
    observers: Sequence[Observer] = (),
    keeper: Keeper | None = None,
    tools: Tools | None = None,
) -> Result:
    """As :func:`simulate`, on clients and a held-out part that were loaded."""
    began = time.monotonic()
    check_fits(prepared.model, available_bytes())
    tools = tools or Tools()
    timed = tools.profile.timed if tools.profile else untimed
    if tools.profile:
        prepared, observers, keeper = on_the_clock(tools.profile, prepared, observers, keeper)
    clients = Clients(prepared, federation, device=engine.device)
    source = clients if engine.executor == "ray" else timed("data", clients)  # the actors have clients of their own
    paces = pacing(prepared, federation.names, source)
    held_out = HeldOut(prepared, federation.held_out)
    executor, choice = choose(engine, prepared, source, federation.names)
    if tools.debug:
        executor = DebuggingExecutor(executor, Scene(prepared, clients, federation.clients, tools.debug))
    if tools.profile:
        executor = ProfiledExecutor(executor, tools.profile, choice)
    setting = Setting(federation.names, paces, executor)
    port = VirtualPort(prepared, setting, observers, timed("evaluate", held_out.in_round, "digest"), keeper)
    if keeper:
        keeper.chosen(choice)
    try:
        with settled():  # a plan's tracer leaves some hundred thousand objects
            state = drive(prepared.strategy, prepared.spec.rounds, prepared.spec.seed, port)
    finally:
        executor.close()
        if keeper:
            keeper.left(port.rounds, port.snapshot)
    model = state.tensors["model"]
    for observer in observers:
        observer.finished(model)
    last, measured = tuple(port.records.records), timed("evaluate", held_out.measure)(model)
    return Result(model, last, measured, time.monotonic() - began, choice, stopped(state))


class HeldOut:
    """The part that belongs to no client: prepared by the plan once, when it is first measured."""

    def __init__(self, prepared: Prepared, columns: Columns | None) -> None:
        if columns is None and prepared.spec.test.central_every:
            raise ConfigError(
                "central_refused",
                "`test.central_every` is set, and the run has no held-out part.",
                "It says how often the model is measured on that part.",
                "Set `data.held_out`, as 0.2, or leave `test.central_every` out.",
            )
        self._prepared = prepared
        self._columns = columns
        self._examples: Examples | None = None

    def measure(self, model: Tensors) -> dict[str, float]:
        """Loss and metrics of a model, in large batches; empty where there is no such part."""
        if self._columns is None:
            return {}
        plan, seed = self._prepared.plan, self._prepared.spec.seed
        if self._examples is None:
            self._examples = prepare_client("held_out", self._columns, plan.prepare, 0.0, seed).train
        return measure(objective_of(plan, seed), model, self._examples)

    def in_round(self, number: int, model: Tensors) -> dict[str, float]:
        """As :meth:`measure`, every ``[test] central_every`` rounds."""
        every = self._prepared.spec.test.central_every
        return self.measure(model) if every and number % every == 0 else {}
