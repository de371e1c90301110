"""The one round logic: plan a phase, and close it. Both are pure; simulation and coordinator call the same two."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from foedus.domain.facts import NO_FACTS, Facts
from foedus.domain.rng import generator
from foedus.domain.round import Aggregate, PhaseOrder, PhaseRecord, Receipt
from foedus.domain.tree import State
from foedus.schedules.schedule import Draw
from foedus.schedules.selectors import Request
from foedus.strategies.strategy import Phase, Strategy, round_of


@dataclass(frozen=True)
class There:
    """Whom a draw can choose among: the sorted population, who of it is busy, and who was asked last in the run."""

    population: Sequence[str]
    busy: Collection[str]
    last: str


def plan_phase(
    phase: Phase,
    state: State,
    population: Sequence[str],
    seed: int,
    attempt: int = 0,
    facts: Mapping[str, Facts] = NO_FACTS,
) -> PhaseOrder:
    """Whom this phase asks, of the sorted names in ``population``; another ``attempt`` asks anew."""
    number = round_of(state)
    purpose = f"select {phase.name}" + (f" {attempt}" if attempt else "")
    clients = phase.selector(population, generator(seed, number, "", purpose), facts)
    return PhaseOrder(number, phase.name, tuple(sorted(clients)), attempt)


def plan_draw(phase: Phase, order: PhaseOrder, draw: Draw, there: There, seed: int) -> tuple[str, ...]:
    """Whom a draw asks: so many that are not busy, by the generator of (seed, round, phase, attempt, draw)."""
    drawer = phase.schedule.drawer
    assert drawer is not None, "the phase's schedule asks a cohort, and draws nobody"
    numbers = [number for number in (order.attempt, draw.number) if number or draw.number]
    purpose = " ".join([f"select {order.phase}", *map(str, numbers)])
    random = generator(seed, order.round, "", purpose)
    return drawer(there.population, Request(draw.count, there.busy, there.last, random))


def close_phase(
    strategy: Strategy, state: State, order: PhaseOrder, aggregate: Aggregate, receipts: Sequence[Receipt]
) -> tuple[State, PhaseRecord]:
    """The state after a phase, and what is recorded of it. A phase without contributions changes nothing but the place.

    The server half of the phase's transform acts on the aggregate before the strategy's step.
    """
    phase = current_phase(strategy, state)
    tensors, after_transform = phase.transform.server(state, aggregate.tensors)
    closed = strategy.close(after_transform, replace(aggregate, tensors=tensors), receipts)
    return closed, record_of(order, receipts, optional=phase.optional)


def current_phase(strategy: Strategy, state: State) -> Phase:
    """The phase that the state is in; the round must not be done."""
    phase = strategy.phase(state)
    if not isinstance(phase, Phase):
        raise AssertionError(f"round {round_of(state)} is done")
    return phase


def record_of(order: PhaseOrder, receipts: Sequence[Receipt], *, optional: bool) -> PhaseRecord:
    """The record of a closed phase: metrics are means over the contributions that have them, weighted by examples."""
    ordered = tuple(sorted(receipts, key=lambda receipt: receipt.client))
    counted = [receipt for receipt in ordered if not receipt.failure]
    names = sorted({name for receipt in counted for name in receipt.metrics})
    metrics = {name: _mean(name, [receipt for receipt in counted if name in receipt.metrics]) for name in names}
    outcome = "untested" if optional and not counted else "closed"
    up = sum(receipt.size for receipt in ordered)
    return PhaseRecord(order.phase, order.clients, ordered, metrics, bytes_up=up, outcome=outcome)


def _mean(name: str, receipts: Sequence[Receipt]) -> float:
    """The mean of a metric over receipts that have it."""
    total = sum(receipt.weights["examples"] for receipt in receipts)
    return sum(receipt.metrics[name] * receipt.weights["examples"] for receipt in receipts) / total
