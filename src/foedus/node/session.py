"""A run's work inside a node's work process: plan, strategy and prepared data, made once, and one ask after another.

Everything is built as the simulation builds it (kernel ``eager``), so that the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foedus.data.dataset import ClientData, Columns, prepare_client
from foedus.data.loading_plan import LoadingPlan
from foedus.data.owned import check_minimum
from foedus.data.reading import columns_of
from foedus.domain.codec import TensorFile, encode
from foedus.domain.errors import ClientWorkError, IntegrityError
from foedus.domain.plan import PlanBundle
from foedus.domain.rng import Randomness
from foedus.domain.round import Ask, Broadcast
from foedus.domain.run import CohortTable, DataTable, PartitionTable, RunSpec, StrategyTable, TestTable
from foedus.domain.table import Table, validate
from foedus.domain.timing import ScheduleTable, SynchronousTable
from foedus.domain.tree import State
from foedus.engine.client import ClientTask, run_client
from foedus.local.kinds import begin, check_depth, load_plan, objective_of
from foedus.local.own import quiet
from foedus.local.work import Batch, Carry, LocalWork
from foedus.node.frames import Done, Order
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import Phase, RunContext, phases_of
from foedus.wire.messages import Assignment


class Scheduled(Table):
    """The schedule of an assignment's run."""

    schedule: ScheduleTable = SynchronousTable()


def spec_of(assignment: Assignment) -> RunSpec:
    """The run as far as client work can depend on it: strategy, schedule, seed and test share.

    Whom a round asks and where a simulation's data lie are no business of a node's; those keys hold fixed values.
    """
    schedule = validate(Scheduled, {"schedule": assignment.schedule or {}}, "the assignment").schedule
    return RunSpec(
        plan="plan.py",
        rounds=max(1, assignment.round),
        seed=assignment.seed,
        strategy=StrategyTable(name=assignment.strategy, **assignment.options),
        cohort=CohortTable(fraction=1.0) if schedule.name == "synchronous" else CohortTable(size=1),
        schedule=schedule,
        data=DataTable(name="node", partition=PartitionTable(name="node", clients=1)),
        test=TestTable(ratio=assignment.test_ratio, validation=assignment.validation_ratio),
    )


@dataclass(frozen=True)
class Worked:
    """What an ask came to: what is said of it, and the bytes of the update (none of a test) and of the new state."""

    done: Done
    update: bytes
    state: bytes


class Session:
    """One run on one node. The plan is imported and the model built once; a client's data are prepared once.

    It serves the assignments that name what it was made of, and no others: what the owner has approved since, or no
    longer, is looked up by the agent under the plan that an assignment names. ``files``: a copy of the plan's.

    Raises:
        IntegrityError: ``plan_digest`` where the bundle is not the plan that the assignment names.
        PlanError, ConfigError: where plan or strategy cannot be used.
    """

    def __init__(self, bundle: PlanBundle, assignment: Assignment, files: Path | None = None) -> None:
        if bundle.digest != assignment.plan:
            raise IntegrityError("plan_digest", "The bundle is not the plan that the assignment names.")
        torch.set_num_threads(1)
        begun = begin(load_plan(bundle, files), assignment.seed, assignment.options)
        self._strategy = build(RunContext(spec_of(assignment), begun.manifest))
        check_depth(begun.plan, assignment.strategy, gradients=self._strategy.gradients)
        self._objective = objective_of(begun.plan, assignment.seed, alive=lambda: self._stepped())
        self._plan = begun.plan
        self._data: dict[tuple[str, str], ClientData] = {}
        self._made_of = _made_of(assignment)
        self._stepped: Callable[[], None] = quiet

    def work(self, order: Order, stepped: Callable[[], None]) -> Worked:
        """Do one ask; call ``stepped`` after each step.

        Raises:
            ClientWorkError, DataError, PlanError, IntegrityError, OSError: where it fails.
        """
        ask = order.assignment
        if _made_of(ask) != self._made_of:
            raise IntegrityError("run_changed", "The assignment's plan or options are not those of its run.")
        self._stepped = stepped
        phase = _told(self._phase(ask), stepped)
        task = ClientTask(phase, self._objective, Broadcast({part: _read(p) for part, p in order.parts.items()}))
        state = State() if order.state is None else _read_state(order.state)
        data = self._client(order)
        asked, rng = Ask(ask.client, ask.round, ask.phase), Randomness(ask.seed, ask.round, ask.client)
        contribution, new_state = run_client(task, asked, data, state, rng)
        update = encode(State(contribution.update)) if contribution.update else b""
        kept = encode(new_state)
        done = Done(
            weights=dict(contribution.weights),
            metrics=dict(contribution.metrics),
            seconds=contribution.seconds,
            update=len(update),
            state=len(kept),
        )
        return Worked(done, update, kept)

    def _client(self, order: Order) -> ClientData:
        ask, key = order.assignment, (order.assignment.client, order.dataset)
        if key not in self._data:
            columns = _columns(order)
            data = prepare_client(
                ask.client, columns, self._plan.prepare, ask.test_ratio, ask.seed, ask.validation_ratio
            )
            # Of what the plan made of the rows, as it may leave all but one out.
            check_minimum(len(data.train) or len(data.test), order.reading.minimum)
            self._data[key] = data
        return self._data[key]

    def _phase(self, ask: Assignment) -> Phase:
        phases = phases_of(self._strategy, State(), ask.round)
        if found := next((phase for phase in phases if phase.name == ask.phase), None):
            return found
        raise ClientWorkError("phase_unknown", f"The strategy {ask.strategy} has no phase {ask.phase!r:.80}.")


def _columns(order: Order) -> Columns:
    """The owner's file, as its loading plan has it read, or as it is."""
    plan = None if order.loading is None else validate(LoadingPlan, order.loading, "The loading plan")
    return columns_of(order.reading, plan, Path(order.dataset))


def _made_of(ask: Assignment) -> tuple[object, ...]:
    return ask.plan, ask.run, ask.seed, ask.strategy, ask.options, (ask.test_ratio, ask.validation_ratio)


def _told(phase: Phase, stepped: Callable[[], None]) -> Phase:
    def build_work(objective: Any) -> LocalWork:
        work = phase.work(objective)

        def step(carry: Carry, batch: Batch) -> tuple[Carry, Any]:
            result = work.step(carry, batch)
            stepped()
            return result

        return replace(work, step=step)

    return replace(phase, work=build_work)


def _read(path: str) -> dict[str, Tensor]:
    with TensorFile(Path(path)) as file:
        return dict(file)


def _read_state(path: str) -> State:
    with TensorFile(Path(path)) as file:
        return file.state()
