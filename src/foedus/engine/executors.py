"""Where client work happens in a simulation: executor ``inline`` (this process) or ``workers`` (processes).

An executor takes fold blocks and gives back, block by block in order, the block's partial sum and its receipts. The
sums inside a block are made in the order of client names, so the result does not depend on who computed what.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from foedus.engine.kernels import BlockResult, ClientSource, Kernel, Outcome, PhaseWork


class Executor(Protocol):
    """Runs fold blocks with one kernel."""

    name: str

    def run(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Iterator[BlockResult]:
        """The results of the blocks, as the kernel folds them, in their order."""

    def outcomes(self, work: PhaseWork, clients: tuple[str, ...]) -> Iterator[Outcome]:
        """What became of each client's work, unfolded, in the order given."""

    def close(self) -> None:
        """Give back processes and memory."""


class InlineExecutor:
    """Everything in this process, one block after another."""

    name = "inline"

    def __init__(self, kernel: Kernel, source: ClientSource) -> None:
        self._kernel = kernel
        self._source = source

    def run(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Iterator[BlockResult]:
        """Compute and fold block by block."""
        for block in self._kernel.blocks(work, blocks):
            yield self._kernel.fold(work, block, self._source)

    def outcomes(self, work: PhaseWork, clients: tuple[str, ...]) -> Iterator[Outcome]:
        """Compute one after another."""
        return self._kernel.run(work, clients, self._source)

    def close(self) -> None:
        """Nothing to give back."""
