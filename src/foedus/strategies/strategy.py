"""A strategy as a value, and ``compose``, which builds one from parts and refuses what cannot be sound.

One strategy text serves simulation and live federation. Its state is a value: ``tensors["model"]`` is the global model,
further parts are the server optimizer's moments, ``data`` says where in the run it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from foedus.aggregation.aggregator import Aggregator
from foedus.domain.errors import ConfigError
from foedus.domain.names import NAME
from foedus.domain.plan import ModelManifest
from foedus.domain.round import Aggregate, Receipt, Schema
from foedus.domain.run import RunSpec
from foedus.domain.timing import SynchronousTable
from foedus.domain.tree import State, Tensors
from foedus.local.checks import LOG_INTERVAL, NO_CHECKS, Checks
from foedus.local.evaluate import evaluation
from foedus.local.personal import merging
from foedus.local.work import WorkBuilder
from foedus.schedules.named import schedule_of
from foedus.schedules.schedule import Schedule
from foedus.schedules.selectors import SELECTORS, Selector
from foedus.strategies.stopping import End, ending
from foedus.transforms.transform import IDENTITY, Transform

log = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def once(examples: int) -> int:
    """Every example is seen once."""
    return examples


@dataclass(frozen=True)
class Phase:
    """One exchange with clients: what they do, what comes back, how it is combined, whom to ask and when to close.

    ``broadcast`` names the parts of the state that go down; of ``n`` examples the work sees ``seen(n)``, counting each
    as often as it is seen. A phase that does not need an answer to go on (``optional``) is recorded as untested where
    too few answer. ``checks``: what is measured around the work; ``eager``: why only that kernel can compute it.
    """

    name: str
    work: WorkBuilder
    schema: Schema
    aggregator: Aggregator
    transform: Transform
    selector: Selector
    schedule: Schedule
    broadcast: tuple[str, ...] = ("model",)
    optional: bool = False
    seen: Callable[[int], int] = once
    checks: Checks = NO_CHECKS
    eager: str = ""


@dataclass(frozen=True)
class Done:
    """The round has no further phase."""


@dataclass(frozen=True)
class Strategy:
    """``init(model) → state``; ``phase(state) → Phase | Done``; ``close(state, aggregate, receipts) → state``.

    ``end(state, metrics) → state`` at the beginning of the next round, which may say that the run stops early.
    ``sliced``: ``close`` acts on each element alone, so that it may be called slice by slice, with the same bits.
    ``gradients``: its training steps along the gradients of a plan's loss, which a plan of its own work has not.
    """

    name: str
    init: Callable[[Tensors], State]
    phase: Callable[[State], Phase | Done]
    close: Callable[[State, Aggregate, Sequence[Receipt]], State]
    end: End
    sliced: bool
    gradients: bool = True


def phases_of(strategy: Strategy, state: State, number: int) -> list[Phase]:
    """The phases of round ``number``, in their order; ``state`` is one of the strategy's."""
    phases: list[Phase] = []
    while True:
        there = replace(state, data={**state.data, "round": number, "phase": len(phases)})
        phase = strategy.phase(there)
        if isinstance(phase, Done):
            return phases
        phases.append(phase)


@dataclass(frozen=True)
class RunContext:
    """What a strategy is built for: the run as resolved, and the model's manifest."""

    spec: RunSpec
    manifest: ModelManifest

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of the model's tensors of one kind."""
        return tuple(tensor.name for tensor in self.manifest.tensors if tensor.kind == kind)


@dataclass(frozen=True)
class Recipe:
    """The parts that a strategy's file brings to :func:`compose`.

    ``personal`` names the tensors that stay with each client; ``log_interval``: how many steps there are from one that
    is told to the next. ``gradients``: its work steps along those of a plan's loss.
    """

    name: str
    work: WorkBuilder
    schema: Schema
    aggregator: Aggregator
    init: Callable[[Tensors], State]
    step: Callable[[State, Aggregate], State]
    transform: Transform | None = None
    seen: Callable[[int], int] = once
    personal: frozenset[str] = frozenset()
    log_interval: int = LOG_INTERVAL
    gradients: bool = True


def compose(recipe: Recipe, context: RunContext) -> Strategy:
    """A strategy with one training phase, and phases that validate and test the new model where the run asks for them.

    Raises:
        ConfigError: ``strategy_unsound`` where the parts do not fit each other.
    """
    spec = context.spec
    weights = {part.weight for part in recipe.schema.parts.values()}
    if not weights <= set(recipe.schema.weights):
        raise ConfigError("strategy_unsound", f"Parts are weighted by {sorted(weights)}, which no client sends.")
    selector, schedule = SELECTORS[spec.cohort.selector](spec.cohort), schedule_of(spec.schedule, spec.cohort)
    if recipe.aggregator.columns and schedule.draws:
        raise ConfigError(
            "strategy_unsound",
            f"An aggregator by columns does not go with the schedule `{spec.schedule.name}`.",
            "It compares contributions that began with one model, and staleness would shrink some of them.",
            "Use the schedule `synchronous`, or the aggregator `mean`.",
        )
    phases = _phases(recipe, context, selector, schedule)

    def phase(state: State) -> Phase | Done:
        planned, at = phases(round_of(state)), _integer(state, "phase")
        return planned[at] if at < len(planned) else Done()

    def close(state: State, aggregate: Aggregate, receipts: Sequence[Receipt]) -> State:
        at = _integer(state, "phase")
        after = recipe.step(state, aggregate) if phases(round_of(state))[at].name == TRAIN else state
        return replace(after, data={**after.data, "phase": at + 1})

    def init(model: Tensors) -> State:
        state = recipe.init(model)
        return replace(state, data={**state.data, "round": 1, "phase": 0})

    return Strategy(recipe.name, init, phase, close, ending(spec, context.manifest.metrics), True, recipe.gradients)


def _phases(
    recipe: Recipe, context: RunContext, selector: Selector, schedule: Schedule
) -> Callable[[int], tuple[Phase, ...]]:
    """The phases of each round: training, where the run trains, and what measures the new model."""
    spec, tests = context.spec, context.spec.test
    if tests.ratio == 0 and (tests.on_global_updates or tests.on_local_updates):
        log.warning("`test.ratio` is 0, so nothing is measured on global or local updates")
    checks = Checks(tests.on_global_updates, tests.on_local_updates, tests.shuffle, recipe.log_interval)
    transform = recipe.transform or IDENTITY
    train = Phase(TRAIN, recipe.work, recipe.schema, recipe.aggregator, transform, selector, schedule, seen=recipe.seen)
    train = replace(train, schema=_checked(train.schema, context, checks), checks=checks, eager=_eager(recipe, checks))
    at_once = schedule_of(SynchronousTable(), spec.cohort) if schedule.draws else schedule
    schema = Schema({}, ("examples",), tuple(context.manifest.metrics))
    test = Phase(
        TEST,
        merging(evaluation) if recipe.personal else evaluation,
        schema,
        recipe.aggregator,
        IDENTITY,
        selector,
        at_once,
        optional=spec.training,
        checks=Checks(shuffle=tests.shuffle),
        eager="it trains nothing",
    )
    validation = (replace(test, name=VALIDATION),) if tests.validation > 0 else ()
    test_of_models = (test,) if tests.ratio > 0 else ()

    def phases(number: int) -> tuple[Phase, ...]:
        last, due = number == spec.rounds, number % tests.every == 0
        tested = last or (due and spec.trainer.model_test_after_each_round)
        wanted = tested and not spec.trainer.skip_model_tests
        if not spec.training:
            return (*validation, *test_of_models)
        after = (*(validation if last or due else ()), *(test_of_models if wanted or (last and checks.before) else ()))
        return (train, *after)

    return phases


def _checked(schema: Schema, context: RunContext, checks: Checks) -> Schema:
    """The schema with what is measured around the work.

    Raises:
        ConfigError: ``strategy_unsound`` where a metric's name has no room for its tag.
    """
    tagged = checks.names(tuple(context.manifest.metrics))
    if long := [name for name in tagged if not NAME.fullmatch(name)]:
        raise ConfigError(
            "strategy_unsound",
            f"The metric's name {long[0]:.80} is too long.",
            "What is measured around training is tagged, and a name has 64 letters at most.",
            "Give the plan's metric a shorter name.",
        )
    return replace(schema, metrics=(*schema.metrics, *tagged))


def _eager(recipe: Recipe, checks: Checks) -> str:
    if recipe.personal:
        return "each client has tensors of its own"
    return "clients measure, or split anew, around their work" if checks.any else ""


def round_of(state: State) -> int:
    """The round that a state is in, 1-based."""
    return _integer(state, "round")


def _integer(state: State, key: str) -> int:
    value = state.data[key]
    assert isinstance(value, int), key
    return value
