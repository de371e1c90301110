"""Kernel ``graph`` beside kernel ``eager``, over models, losses and options: what it runs, how, and how near."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from foedus.data.population import Generated, federation
from foedus.domain.plan import PlanBundle
from foedus.domain.run import parse_spec
from foedus.domain.tree import Tensors
from foedus.engine.choice import Choice, Engine
from foedus.engine.prepare import Prepared, prepare_plan
from foedus.engine.simulate import Result, simulate_on
from tests.generality import ALONE, CASES, EAGER, PADDED, PAGE, WHOLE, Case, clients, written
from tests.parity.test_engines import TOLERANCE

COHORT, STACK = 20, 5


def ready(case: Case) -> Prepared:
    strategy = {"name": "fedavg", "local": {"lr": 0.05, "batch_size": 8, **case.local}, "server": dict(case.server)}
    data = {"name": "given", "partition": {"name": "iid", "clients": COHORT}}
    table = {"plan": "plan.py", "rounds": 2, "seed": 1, "strategy": strategy, "cohort": {"size": COHORT}, "data": data}
    return prepare_plan(parse_spec({**table, "test": {"ratio": 0.0}}), Path(), PlanBundle({}, "plan.py"), case.plan)


def run(prepared: Prepared, engine: Engine) -> Result:
    return simulate_on(prepared, federation(Generated(COHORT, clients)), engine)


def mode_of(choice: Choice) -> tuple[str, str]:
    """How the graph ran batches, in the table's words, and the reason where it did not run."""
    if choice.kernel == "eager":
        return EAGER, choice.reason.removeprefix("kernel eager: the plan cannot run as a graph: ").partition(";")[0]
    return PADDED if choice.recipe["padded"] else WHOLE, ""


def distance(first: Tensors, second: Tensors) -> float:
    return float(sum(((first[name].double() - second[name].double()) ** 2).sum() for name in first) ** 0.5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_graph_runs_it_as_the_table_says_and_as_near_to_eager_as_the_guide_says(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = ready(case)
    eager = run(prepared, Engine("eager", "inline"))
    assert not [receipt for row in eager.rounds for receipt in row.phases[0].receipts if receipt.failure]
    with caplog.at_level(logging.WARNING):
        graph = run(prepared, Engine("graph", "inline"))
        mode, reason = mode_of(graph.choice)
        assert (mode, case.reason in reason) == (case.mode, True), graph.choice.reason
        assert bool(graph.choice.recipe.get("factored")) == case.factored
        assert case.clients != ALONE or graph.choice.stack == 1
        other = other_layout if case.clients == ALONE else other_stack
        runs = [graph, *([other(prepared, graph.choice), turned(prepared, graph.choice)] if mode != EAGER else [])]
    assert not caplog.records, "the graph left clients to kernel eager"
    for result in runs:
        assert distance(result.model, eager.model) <= TOLERANCE * distance(prepared.model, eager.model)


def other_stack(prepared: Prepared, choice: Choice) -> Result:
    """The same recipe in stacks where the machine at hand was faster without, and without where it was faster so."""
    stack = STACK if choice.stack == 1 else 1
    result = run(prepared, Engine("graph", "inline", recipe={**choice.recipe, "stack": stack}))
    assert (result.choice.kernel, result.choice.stack) == ("graph", stack)
    return result


def turned(prepared: Prepared, choice: Choice) -> Result:
    """The same recipe with weights on the left of products, however small they are."""
    result = run(prepared, Engine("graph", "inline", recipe={**choice.recipe, "turned": 1}))
    assert (result.choice.kernel, result.choice.recipe["turned"]) == ("graph", 1)
    return result


def other_layout(prepared: Prepared, choice: Choice) -> Result:
    """The same recipe with channels last where it has them first, and the other way round."""
    last = not choice.recipe["channels_last"]
    result = run(prepared, Engine("graph", "inline", recipe={**choice.recipe, "channels_last": last}))
    assert (result.choice.kernel, result.choice.recipe["channels_last"]) == ("graph", last)
    return result


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text() == written(), "python -m tests.generality writes it"
