"""How client work is computed: kernel ``eager`` runs one client at a time through ``run_client``, and is the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from foedus.aggregation.aggregator import Sums
from foedus.data.dataset import ClientData
from foedus.domain.errors import ClientWorkError
from foedus.domain.rng import Randomness
from foedus.domain.round import Ask, Broadcast, Contribution, PhaseOrder, Receipt
from foedus.domain.tree import State
from foedus.engine.client import ClientTask, run_client
from foedus.engine.saving import Saves
from foedus.local.kinds import Plan, objective_of
from foedus.strategies.strategy import Phase


@dataclass(frozen=True)
class PhaseWork:
    """One phase's work. ``states`` holds the clients' current states."""

    order: PhaseOrder
    phase: Phase
    broadcast: Broadcast
    states: Mapping[str, State]
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What became of one ask: a contribution and a new state, or the reason why there is none."""

    client: str
    contribution: Contribution | None
    state: State
    failure: str = ""


ClientSource = Callable[[str], ClientData]

NO_FACTORS: Mapping[str, float] = {}


@dataclass(frozen=True)
class BlockResult:
    """What a fold block came to: its partial sum, and per client a receipt and the new state."""

    sums: Sums
    receipts: tuple[Receipt, ...]
    states: Mapping[str, State]


class Kernel(Protocol):
    """Computes the work of one block of clients, in the order given."""

    name: str

    def run(self, work: PhaseWork, clients: tuple[str, ...], source: ClientSource) -> Iterator[Outcome]:
        """One outcome per client, in the order given. A client that fails does not disturb the others."""

    def fold(self, work: PhaseWork, block: tuple[str, ...], source: ClientSource) -> BlockResult:
        """A whole fold block, folded in the order given."""

    def parts(self, work: PhaseWork, block: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The block cut into the smallest pieces that may be run apart without changing a bit of the outcomes."""

    def blocks(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
        """The fold blocks as this kernel folds them: the same clients in the same order."""

    def folds_outcomes(self, work: PhaseWork) -> bool:
        """Whether to fold a block is to fold its clients' outcomes, bit for bit, wherever they were computed."""


class EagerKernel:
    """One client at a time."""

    name = "eager"

    def __init__(self, plan: Plan, seed: int, device: str = "cpu", saves: Saves | None = None) -> None:
        self._objective = objective_of(plan, seed, device)
        self._saving = saves(self._objective) if saves else None

    def run(self, work: PhaseWork, clients: tuple[str, ...], source: ClientSource) -> Iterator[Outcome]:
        """Run each client's work through :func:`run_client`, when the one before has been taken."""
        task = ClientTask(work.phase, self._objective, work.broadcast)
        for client in clients:
            yield self._one(task, work, client, source)

    def fold(self, work: PhaseWork, block: tuple[str, ...], source: ClientSource) -> BlockResult:
        """Fold each client's contribution when it is there."""
        return fold_outcomes(work.phase, self.run(work, block, source))

    def parts(self, work: PhaseWork, block: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Client by client."""
        return [(client,) for client in block]

    def blocks(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
        """As they are."""
        return blocks

    def folds_outcomes(self, work: PhaseWork) -> bool:
        """Yes: a block's sum is made contribution by contribution."""
        return True

    def _one(self, task: ClientTask, work: PhaseWork, client: str, source: ClientSource) -> Outcome:
        ask, rng = Ask(client, work.order.round, work.phase.name), Randomness(work.seed, work.order.round, client)
        state = work.states.get(client, State())
        try:
            data = source(client)
            if self._saving:
                task = replace(task, look=self._saving.look(ask, data))
            contribution, new_state = run_client(task, ask, data, state, rng)
        except ClientWorkError as error:
            return Outcome(client, None, state, f"{error.code}: {error}")
        return Outcome(client, contribution, new_state)


def fold_outcomes(phase: Phase, outcomes: Iterable[Outcome], factors: Mapping[str, float] = NO_FACTORS) -> BlockResult:
    """Fold one block's contributions, which stand in the order of their names; ``factors`` shrink those of clients."""
    sums, receipts, states = phase.aggregator.zero(), [], {}
    for outcome in outcomes:
        contribution = outcome.contribution
        if contribution is None:
            receipts.append(Receipt(outcome.client, {}, {}, failure=outcome.failure))
            continue
        update = phase.transform.decode(contribution.update)
        if (factor := factors.get(outcome.client, 1.0)) != 1.0:
            update = phase.schema.discounted(update, factor)
        sums = phase.aggregator.add(sums, update, contribution.weights)
        size = sum(t.numel() * t.element_size() for part in contribution.update.values() for t in part.values())
        weights, metrics, seconds = contribution.weights, contribution.metrics, contribution.seconds
        receipts.append(Receipt(outcome.client, weights, metrics, seconds=seconds, size=size))
        states[outcome.client] = outcome.state
    return BlockResult(sums, tuple(receipts), states)
