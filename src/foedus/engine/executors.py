"""Where client work happens in a simulation: executor ``inline`` (this process) or ``workers`` (processes).

An executor takes fold blocks and gives back, block by block in order, the block's partial sum and its receipts. The
sums inside a block are made in the order of client names, so the result does not depend on who computed what.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from foedus.domain.tree import State, placed
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
    """Everything in this process, one block after another; on ``device``, where kernel and clients' data are."""

    name = "inline"

    def __init__(self, kernel: Kernel, source: ClientSource, device: str = "cpu") -> None:
        self._kernel = kernel
        self._source = source
        self._device = device

    def run(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Iterator[BlockResult]:
        """Compute and fold block by block; sums and states come back to the processor's memory."""
        there = on_device(work, self._device)
        for block in self._kernel.blocks(work, blocks):
            done = self._kernel.fold(there, block, self._source)
            sums = replace(done.sums, tensors={part: dict(t) for part, t in placed(done.sums.tensors, "cpu").items()})
            yield BlockResult(sums, done.receipts, {name: _home(state) for name, state in done.states.items()})

    def outcomes(self, work: PhaseWork, clients: tuple[str, ...]) -> Iterator[Outcome]:
        """Compute one after another."""
        for outcome in self._kernel.run(on_device(work, self._device), clients, self._source):
            made = outcome.contribution
            home = replace(made, update=placed(made.update, "cpu")) if made else None
            yield replace(outcome, contribution=home, state=_home(outcome.state))

    def close(self) -> None:
        """Nothing to give back."""


def on_device(work: PhaseWork, device: str) -> PhaseWork:
    """The work with its broadcast and the clients' states on a device."""
    if device == "cpu":
        return work
    down = replace(work.broadcast, tensors=placed(work.broadcast.tensors, device))
    states = {name: State(placed(state.tensors, device), state.data) for name, state in work.states.items()}
    return replace(work, broadcast=down, states=states)


def _home(state: State) -> State:
    return State(placed(state.tensors, "cpu"), state.data) if state.tensors else state
