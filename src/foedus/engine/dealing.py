"""A phase's work as executors with workers deal it out: in items, done again where a worker was lost, put in order.

Nothing here knows what a worker is. The sums are made block by block, as the kernel cuts them, whoever computed what.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from foedus.domain.tree import State
from foedus.engine.kernels import BlockResult, ClientSource, Kernel, Outcome, PhaseWork, fold_outcomes

TRIES = 2
"""Work that ends this many workers is given up."""

BLOCKS_PER_WORKER = 2
"""With fewer blocks than this for each worker, parts of blocks go out, so that no worker waits for the last block."""

Part = BlockResult | list[Outcome]
"""What came back for an item: folded, or as outcomes."""

Numbered = tuple[int, Part]
"""A block's number, and its sum where one worker had the whole block, else its clients' outcomes in their order."""


@dataclass(frozen=True)
class Item:
    """Work to hand out: clients of one block; the worker folds them if they are the whole block."""

    block: int
    part: int
    clients: tuple[str, ...]
    fold: bool


def items_of(kernel: Kernel, work: PhaseWork, blocks: Sequence[tuple[str, ...]], workers: int) -> list[Item]:
    """Whole blocks where there are enough of them for so many ``workers``, and parts of blocks where there are not."""
    blocks = kernel.blocks(work, blocks)
    if len(blocks) >= BLOCKS_PER_WORKER * workers or not kernel.folds_outcomes(work):
        return [Item(at, 0, block, True) for at, block in enumerate(blocks)]
    return [item for at, block in enumerate(blocks) for item in parts_of(kernel, work, block, at)]


def parts_of(kernel: Kernel, work: PhaseWork, clients: tuple[str, ...], block: int = 0) -> list[Item]:
    """The smallest pieces that may be run apart, unfolded."""
    return [Item(block, part, some, False) for part, some in enumerate(kernel.parts(work, clients))]


def done(kernel: Kernel, work: PhaseWork, clients: tuple[str, ...], source: ClientSource, *, fold: bool) -> Part:
    """An item's work, done: folded where it is to be."""
    return kernel.fold(work, clients, source) if fold else list(kernel.run(work, clients, source))


def in_order(work: PhaseWork, results: Iterable[Numbered]) -> Iterator[BlockResult]:
    """The blocks' sums in the blocks' order, each as soon as those before it are there."""
    done: dict[int, BlockResult] = {}
    after = 0
    for at, result in results:
        done[at] = result if isinstance(result, BlockResult) else fold_outcomes(work.phase, result)
        while after in done:
            yield done.pop(after)
            after += 1


def unfolded(results: Iterable[Numbered]) -> Iterator[Outcome]:
    """The outcomes of parts that were dealt as one block."""
    for _, result in results:
        assert not isinstance(result, BlockResult)
        yield from result


class Dealt:
    """What is still to be handed out (``waiting``) or to come back (``left``), and the parts that came back."""

    def __init__(self, work: PhaseWork, items: Sequence[Item]) -> None:
        self.waiting = deque(items)
        self.left = len(items)
        self._work = work
        self._lost = Counter[Item]()
        self._parts: dict[int, dict[int, list[Outcome]]] = {}
        self._expected = Counter(item.block for item in items)

    def back(self, item: Item, part: Part) -> Iterator[Numbered]:
        """An item's work came back; with the last of a block's parts, the block is complete."""
        self.left -= 1
        if isinstance(part, BlockResult):
            yield item.block, part
            return
        parts = self._parts.setdefault(item.block, {})
        parts[item.part] = part
        if len(parts) == self._expected[item.block]:
            del self._parts[item.block]
            yield item.block, [outcome for at in sorted(parts) for outcome in parts[at]]

    def lost(self, item: Item) -> Iterator[Numbered]:
        """The worker died over an item: it is done again, or is a failure of its clients."""
        self._lost[item] += 1
        if self._lost[item] < TRIES:
            self.waiting.appendleft(item)
            return
        states = self._work.states
        died = [_died(client, states.get(client, State())) for client in item.clients]
        yield from self.back(item, died)


def _died(client: str, state: State) -> Outcome:
    return Outcome(client, None, state, f"worker_died: The process that worked for {client} died {TRIES} times.")
