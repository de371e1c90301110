"""A run's work inside a node's work process: plan, strategy and prepared data, made once, and one ask after another.

Everything is built as the simulation builds it (kernel ``eager``), so that the bytes are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foedus.data.align import Alignment, parse_alignment, schema_of
from foedus.data.dataset import ClientData, Columns, prepare_client
from foedus.data.loading_plan import LoadingPlan
from foedus.data.owned import check_minimum
from foedus.data.reading import aligned, columns_of
from foedus.domain.codec import TensorFile, encode
from foedus.domain.errors import ClientWorkError, ConfigError, IntegrityError
from foedus.domain.header import TensorSpec
from foedus.domain.plain import Json
from foedus.domain.plan import PlanBundle, parse_bundle
from foedus.domain.rng import Randomness
from foedus.domain.round import Ask, Broadcast
from foedus.domain.run import CohortTable, DataTable, PartitionTable, RunSpec, StrategyTable, TestTable
from foedus.domain.table import Table, validate
from foedus.domain.timing import ScheduleTable, SynchronousTable
from foedus.domain.tree import State, names_of_dtypes
from foedus.engine.client import ClientTask, run_client, unheard
from foedus.local.checkpointers import Kept, watch_of
from foedus.local.checks import Logged
from foedus.local.kinds import begin, check_depth, load_plan, objective_of
from foedus.local.own import quiet
from foedus.local.work import Batch, Carry, LocalWork
from foedus.node.frames import Done, Model, Order
from foedus.node.saved import checkpointers
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import Phase, RunContext, phases_of
from foedus.wire.messages import Assignment

SPLIT = "split"
"""Under this a client's state says how many examples it trains on, tests on and validates on."""


class Scheduled(Table):
    """The schedule of an assignment's run."""

    schedule: ScheduleTable = SynchronousTable()


def spec_of(assignment: Assignment) -> RunSpec:
    """The run as far as client work can depend on it: strategy, schedule, seed and test share.

    Whom a round asks and where a simulation's data lie are no business of a node's; those keys hold fixed values.
    """
    schedule = validate(Scheduled, {"schedule": assignment.schedule or {}}, "the assignment").schedule
    tests = {"ratio": assignment.test_ratio, "validation": assignment.validation_ratio, **assignment.checks}
    return RunSpec(
        plan="plan.py",
        rounds=max(1, assignment.round),
        seed=assignment.seed,
        strategy=StrategyTable(name=assignment.strategy, **assignment.options),
        cohort=CohortTable(fraction=1.0) if schedule.name == "synchronous" else CohortTable(size=1),
        schedule=schedule,
        data=DataTable(name="node", partition=PartitionTable(name="node", clients=1)),
        test=validate(TestTable, tests, "the assignment"),
        training=assignment.test_ratio < 1,
        checkpointer=checkpointers(assignment),
    )


@dataclass(frozen=True)
class Worked:
    """What an ask came to: what is said of it, and the bytes of the update (none of a test) and of the new state.

    ``models``: those that checkpointers keep.
    """

    done: Done
    update: bytes
    state: bytes
    models: tuple[bytes, ...] = ()


class Session:
    """One run on one node. The plan is imported and the model built once; a client's data are prepared once.

    It serves the assignments that name what it was made of, and no others: what the owner has approved since, or no
    longer, is looked up by the agent under the plan that an assignment names. ``files``: a copy of the plan's.
    ``alignment``: by which tables are read.

    Raises:
        IntegrityError: ``plan_digest`` where the bundle is not the plan that the assignment names.
        PlanError, ConfigError: where plan or strategy cannot be used.
    """

    def __init__(
        self,
        bundle: PlanBundle,
        assignment: Assignment,
        files: Path | None = None,
        alignment: Alignment | None = None,
    ) -> None:
        if bundle.digest != assignment.plan:
            raise IntegrityError("plan_digest", "The bundle is not the plan that the assignment names.")
        torch.set_num_threads(1)
        schema = None if alignment is None else schema_of(alignment)
        begun = begin(load_plan(bundle, files), assignment.seed, assignment.options, schema)
        spec = spec_of(assignment)
        self._strategy = build(RunContext(spec, begun.manifest))
        check_depth(begun.plan, assignment.strategy, gradients=self._strategy.gradients)
        self._objective = objective_of(begun.plan, assignment.seed, alive=lambda: self._stepped())
        self._watch = watch_of(spec, begun.plan, self._objective)
        self._model = {tensor.name: TensorSpec(tensor.shape, tensor.dtype) for tensor in begun.manifest.tensors}
        self._plan, self._alignment = begun.plan, alignment
        self._data: dict[tuple[str, str, str], ClientData] = {}
        self._made_of = _made_of(assignment)
        self._stepped: Callable[[], None] = quiet

    def work(self, order: Order, stepped: Callable[[], None], watch: Callable[[Logged], None] = unheard) -> Worked:
        """Do one ask; call ``stepped`` after each step, and ``watch`` at every step that is logged.

        Raises:
            ClientWorkError, DataError, PlanError, IntegrityError, OSError: where it fails.
        """
        ask = order.assignment
        if _made_of(ask) != self._made_of:
            raise IntegrityError("run_changed", "The assignment's plan or options are not those of its run.")
        self._stepped = stepped
        phase = _told(self._phase(ask), stepped)
        broadcast, made = self._broadcast(order), list[Kept]()
        state, began = _read_state(order.state), time.monotonic()
        data = self._client(order)
        state, prepared = _same_split(state, data, ask.client), time.monotonic() - began
        asked, rng = Ask(ask.client, ask.round, ask.phase), Randomness(ask.seed, ask.round, ask.client)
        look = self._watch.over(asked, data, order.kept.get, made.append)
        task = ClientTask(phase, self._objective, broadcast, watch, look)
        contribution, new_state = run_client(task, asked, data, state, rng)
        update = encode(State(contribution.update)) if contribution.update else b""
        kept = encode(new_state)
        done = Done(
            weights=dict(contribution.weights),
            metrics=dict(contribution.metrics),
            seconds=contribution.seconds,
            timings={"prepare": prepared, **contribution.timings},
            update=len(update),
            state=len(kept),
            models=tuple(map(_model, made)),
        )
        return Worked(done, update, kept, tuple(each.content for each in made))

    def _broadcast(self, order: Order) -> Broadcast:
        parts = {part: _read(path) for part, path in order.parts.items()}
        found = {name: TensorSpec(tuple(t.shape), names_of_dtypes[t.dtype]) for name, t in parts["model"].items()}
        if found != self._model:
            raise _model_refused()
        return Broadcast(parts)

    def _client(self, order: Order) -> ClientData:
        ask, how = order.assignment, f"{order.reading.model_dump_json()} {order.loading}"
        key = (ask.client, order.dataset, how)  # the owner may have said something else since
        if key not in self._data:
            columns = _columns(order, self._alignment)
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


def session_of(order: Order) -> Session:
    """The session of a run whose first order this is.

    Raises:
        As :class:`Session`. OSError: where what the order names cannot be read.
        ConfigError: ``align_refused`` where the file of the alignment is none.
    """
    bundle, files = parse_bundle(Path(order.bundle).read_bytes()), None if order.files is None else Path(order.files)
    return Session(bundle, order.assignment, files, None if order.alignment is None else _aligning(order.alignment))


def _aligning(path: str) -> Alignment:
    try:
        return parse_alignment(Path(path).read_bytes())
    except ConfigError as error:
        why = "It is of another version of foedus, perhaps."
        raise ConfigError("align_refused", "The file that says how tables are aligned is none.", why) from error


def _columns(order: Order, alignment: Alignment | None) -> Columns:
    """The owner's file: as the run aligns tables, as its loading plan has it read, or as it is."""
    plan = None if order.loading is None else validate(LoadingPlan, order.loading, "The loading plan")
    if alignment is not None:
        return aligned(alignment, order.reading, plan, Path(order.dataset))
    return columns_of(order.reading, plan, Path(order.dataset))


def _made_of(ask: Assignment) -> tuple[object, ...]:
    shares = (ask.test_ratio, ask.validation_ratio, ask.checks, ask.checkpointers)
    return ask.plan, ask.run, ask.seed, ask.strategy, ask.options, ask.alignment, shares


def _same_split(state: State, data: ClientData, client: str) -> State:
    """The state with how its client's examples are divided, which seed, name and number of examples decide.

    Raises:
        ClientWorkError: ``dataset_changed`` where they were divided otherwise: an example to test on could have been
            trained on before.
    """
    parts: list[Json] = [len(part) for part in (data.train, data.test, data.validation)]
    if state.data.get(SPLIT, parts) != parts:
        raise ClientWorkError(
            "dataset_changed",
            f"The dataset of {client} is not the one that this run began with.",
            "Its examples would be divided anew, and tested on what was trained on.",
            "Offer the dataset of before, or begin another run.",
        )
    return replace(state, data={**state.data, SPLIT: parts})


def _told(phase: Phase, stepped: Callable[[], None]) -> Phase:
    def build_work(objective: Any) -> LocalWork:
        work = phase.work(objective)

        def step(carry: Carry, batch: Batch) -> tuple[Carry, Any]:
            result = work.step(carry, batch)
            stepped()
            return result

        return replace(work, step=step)

    return replace(phase, work=build_work)


def _model(kept: Kept) -> Model:
    return Model(when=kept.when, round=kept.round, size=len(kept.content), scores=dict(kept.scores))


def _read(path: str) -> dict[str, Tensor]:
    try:
        with TensorFile(Path(path)) as file:
            return dict(file)
    except (IntegrityError, OSError) as error:
        raise _model_refused() from error


def _model_refused() -> ClientWorkError:
    return ClientWorkError(
        "model_refused",
        "The model that came down is not the plan's.",
        "Its file is no tensor file, or its tensors have other names, shapes or dtypes.",
        "Submit the run anew, with the plan that its model was made of.",
    )


def _read_state(path: str | None) -> State:
    """The client's state; an empty one where it has none yet."""
    if path is None:
        return State()
    try:
        with TensorFile(Path(path)) as file:
            return file.state()
    except (IntegrityError, OSError) as error:
        raise ClientWorkError(
            "state_refused", "The client's state cannot be read.", "", "Begin another run, or restore the node."
        ) from error
