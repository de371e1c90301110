"""``foedus.iterative_process``: for those who drive the rounds themselves, one call of ``next`` for each.

The state is a value, and a round is the driver's: ``next`` drives one round from a state and gives back the next one.
The names are TensorFlow Federated's (Ingerman and Ostrowski 2019; ``tff.templates.IterativeProcess``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, Unpack

from foedus.api.inputs import Data, How, Inputs, Run, engine_of, read_inputs
from foedus.api.simulation import Kept, undisturbed
from foedus.data.dataset import ClientData, Columns
from foedus.data.population import Federation, federation
from foedus.domain.errors import DataError, UsageError
from foedus.domain.round import PhaseOrder, Receipt, RoundRecord
from foedus.domain.run import CohortTable
from foedus.domain.tree import Tensors
from foedus.engine.choice import Choice, choose
from foedus.engine.clients import Clients
from foedus.engine.driver import drive
from foedus.engine.executors import Executor
from foedus.engine.pacing import pacing
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import HeldOut
from foedus.engine.snapshot import Snapshot
from foedus.engine.virtual import Setting, VirtualPort
from foedus.local.plan import TrainingPlan
from foedus.strategies.catalogue import build
from foedus.strategies.stopping import go_on
from foedus.strategies.strategy import RunContext, round_of


def iterative_process(
    run: Run,
    overrides: Mapping[str, object] | None = None,
    *,
    plan: TrainingPlan | None = None,
    data: Data | None = None,
    **how: Unpack[How],
) -> IterativeProcess:
    """A run whose rounds are driven by hand; the arguments are those of :func:`foedus.simulate`.

    Where nothing else is asked for, everything runs in this process. Rounds beyond the run's ``rounds`` may be driven.

    Raises:
        ConfigError, PlanError, DataError: where anything is wrong.
    """
    with undisturbed():
        inputs = read_inputs(run, overrides, plan, data)
    asked = How(
        kernel=how.get("kernel", "auto"),
        executor=how.get("executor", "inline"),
        workers=how.get("workers"),
        device=how.get("device", "cpu"),
    )
    return IterativeProcess(inputs, asked)


class IterativeProcess:
    """``initialize() → state``; ``next(state, clients) → (state, record)``. A state is a value, good for use again."""

    def __init__(self, inputs: Inputs, how: How) -> None:
        self._prepared = inputs.prepared
        self._federation = inputs.federation
        self._how = how
        self._source = _Source(inputs.prepared, inputs.federation)
        self._executor: Executor | None = None
        self._held_out = HeldOut(inputs.prepared, inputs.federation.held_out)

    @property
    def clients(self) -> Sequence[str]:
        """The names of the clients that the run's data have."""
        return self._federation.names

    def initialize(self) -> Snapshot:
        """The state before round 1: the initial model."""
        return Snapshot(self._prepared.strategy.init(self._prepared.model))

    def next(
        self, state: Snapshot, clients: Sequence[str] | Mapping[str, Columns] | None = None
    ) -> tuple[Snapshot, RoundRecord]:
        """Drive one round from ``state``.

        ``clients``: names ask exactly these; columns by name ask exactly these clients, with these data; without it the
        run's cohort is drawn as it would be in a simulation.

        Raises:
            DataError: ``client_unknown``, ``dataset_empty``.
            UsageError: ``process_refused`` where clients cannot be named: under a schedule whose rounds overlap, and
                data, where other processes would have to see them.
            QuorumError: where too few clients could contribute.
        """
        prepared, population = self._asked(clients)
        kept, keeper = Kept(), _OneRound(replace(state, state=go_on(state.state)))
        with undisturbed():
            setting = Setting(population, pacing(prepared, population, self._source), self._engine(population))
            port = VirtualPort(prepared, setting, [kept], self._held_out.in_round, keeper)
            drive(prepared.strategy, round_of(state.state), prepared.spec.seed, port)
        return keeper.after, kept.records[-1]

    def model(self, state: Snapshot) -> Tensors:
        """The global model in a state: parameters and buffers by name."""
        return state.state.tensors["model"]

    def evaluate(self, state: Snapshot) -> dict[str, float]:
        """Loss and metrics of a state's model on the held-out part; empty where there is none."""
        with undisturbed():
            return self._held_out.measure(self.model(state))

    def close(self) -> None:
        """Give back processes and memory."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def __enter__(self) -> Self:
        """The process itself; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _asked(self, clients: Sequence[str] | Mapping[str, Columns] | None) -> tuple[Prepared, Sequence[str]]:
        """The run with a cohort of exactly these clients, and their names."""
        if isinstance(clients, Mapping):
            self._give(federation(clients))
        elif self._source.federation is not self._federation:
            self._give(self._federation)
        if clients is None:
            return self._prepared, self._federation.names
        schedule = self._prepared.spec.schedule.name
        if schedule != "synchronous":
            raise UsageError(
                "process_refused",
                f"Under the schedule `{schedule}` nobody can say whom a round asks.",
                "Its clients work on from one round to the next.",
                "Leave `clients` out, or use the schedule `synchronous`.",
            )
        names = tuple(sorted(set(clients)))
        if unknown := [name for name in names if name not in self._source.federation.clients]:
            raise DataError(
                "client_unknown", f"There is no client {unknown[0]!r:.80}.", "", "`process.clients` has every name."
            )
        if not names:
            raise DataError("dataset_empty", "A round with no clients has nothing to learn from.", "", "Name some.")
        everybody = CohortTable(fraction=1.0, minimum=self._prepared.spec.cohort.minimum)
        spec = self._prepared.spec.model_copy(update={"cohort": everybody})
        strategy = build(RunContext(spec, self._prepared.manifest))
        return replace(self._prepared, spec=spec, strategy=strategy), names

    def _give(self, own: Federation) -> None:
        if self._how["executor"] != "inline":
            raise UsageError(
                "process_refused",
                "Other processes do not see data that are given to next().",
                "They were started with the run's data.",
                "Give the data to iterative_process(), or leave the executor at `inline`.",
            )
        self._source.give(own)

    def _engine(self, population: Sequence[str]) -> Executor:
        if self._executor is None:
            self._executor, _ = choose(engine_of(self._how), self._prepared, self._source, population)
        return self._executor


class _Source:
    """The clients' prepared data, of whichever federation was given last."""

    def __init__(self, prepared: Prepared, own: Federation) -> None:
        self._prepared = prepared
        self.give(own)

    def give(self, own: Federation) -> None:
        self.federation, self._clients = own, Clients(self._prepared, own)

    def __call__(self, name: str) -> ClientData:
        return self._clients(name)


class _OneRound:
    """Begins at a state, and remembers the state after the round."""

    after: Snapshot

    def __init__(self, begin: Snapshot) -> None:
        self.begin: Snapshot | None = begin

    def chosen(self, choice: Choice) -> None:
        pass

    def between(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        self.after = snapshot()

    def abandoned(self, order: PhaseOrder, reason: str, receipts: Sequence[Receipt]) -> None:
        pass

    def left(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        pass
