"""Where client work happens in a simulation: executor ``inline`` (this process) or ``workers`` (processes).

An executor takes fold blocks and gives back, block by block in order, the block's partial sum and its receipts. The
sums inside a block are made in the order of client names, so the result does not depend on who computed what.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from foedus.aggregation.aggregator import Sums
from foedus.domain.round import Receipt
from foedus.domain.tree import State
from foedus.engine.kernels import ClientSource, Kernel, Outcome, PhaseWork
from foedus.strategies.strategy import Phase


@dataclass(frozen=True)
class BlockResult:
    """What a fold block came to: its partial sum, and per client a receipt and the new state."""

    sums: Sums
    receipts: tuple[Receipt, ...]
    states: Mapping[str, State]


class Executor(Protocol):
    """Runs fold blocks with one kernel."""

    name: str

    def run(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Iterator[BlockResult]:
        """The blocks' results, in the blocks' order."""

    def close(self) -> None:
        """Give back processes and memory."""


def fold_block(phase: Phase, outcomes: Iterable[Outcome]) -> BlockResult:
    """Fold one block's contributions, which stand in the order of their names."""
    sums, receipts, states = phase.aggregator.zero(), [], {}
    for outcome in outcomes:
        contribution = outcome.contribution
        if contribution is None:
            receipts.append(Receipt(outcome.client, {}, {}, failure=outcome.failure))
            continue
        sums = phase.aggregator.add(sums, phase.transform.decode(contribution.update), contribution.weights)
        size = sum(t.numel() * t.element_size() for part in contribution.update.values() for t in part.values())
        weights, metrics, seconds = contribution.weights, contribution.metrics, contribution.seconds
        receipts.append(Receipt(outcome.client, weights, metrics, seconds=seconds, size=size))
        states[outcome.client] = outcome.state
    return BlockResult(sums, tuple(receipts), states)


class InlineExecutor:
    """Everything in this process, one block after another."""

    name = "inline"

    def __init__(self, kernel: Kernel, source: ClientSource) -> None:
        self._kernel = kernel
        self._source = source

    def run(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Iterator[BlockResult]:
        """Compute and fold block by block."""
        for block in blocks:
            yield fold_block(work.phase, self._kernel.run(work, block, self._source))

    def close(self) -> None:
        """Nothing to give back."""
