"""A stack: clients of one fold block that kernel ``graph`` computes together, their tensors one above the other.

The clients stand longest first, so those that still have batches are always the first so many; a client whose batches
have ended is stepped no more. All batches of all clients are gathered before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from foedus.data.dataset import Examples
from foedus.domain.rng import Randomness
from foedus.domain.tree import State
from foedus.engine.tracing import Form
from foedus.local.work import Rows

Memory = Callable[[int, int, Tensor], Tensor]
"""``(place in the carry, clients, like) → [clients, *like]``, the same memory for every stack."""


@dataclass(frozen=True)
class Member:
    """One client of a stack: its randomness, examples, state, and which rows each of its batches has."""

    rng: Randomness
    part: Examples
    state: State
    order: Sequence[Rows]

    @property
    def rows(self) -> int:
        """The rows of all batches."""
        return sum(map(rows_in, self.order))


@dataclass
class Stack:
    """``leaves``: the carry's tensors, ``[clients, …]`` each but the ``shared`` ones.

    ``inputs`` and ``targets`` are ``[steps, clients, rows, …]``, each batch filled up to ``rows`` with a real row;
    ``mask``, 1 for real rows, is ``[steps, clients, rows]``. ``sizes[client][step]`` are the real rows.
    """

    members: Sequence[Member]
    form: Form
    leaves: list[Tensor]
    shared: frozenset[int]
    rows: int
    inputs: Tensor
    targets: Tensor
    mask: Tensor
    sizes: list[list[int]]
    generators: dict[int, torch.Generator] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    @property
    def steps(self) -> int:
        """The steps of the longest client."""
        return len(self.sizes[0])

    def active(self, step: int) -> int:
        """How many clients have a batch at ``step``: the first so many."""
        return sum(len(sizes) > step for sizes in self.sizes)

    def runs(self, step: int) -> Iterator[tuple[int, int, int]]:
        """``(first, last + 1, rows)`` of neighbours whose batches at ``step`` have as many rows."""
        at = 0
        for rows, same in groupby(sizes[step] for sizes in self.sizes[: self.active(step)]):
            count = len(list(same))
            yield at, at + count, rows
            at += count

    def carry(self, first: int, last: int) -> list[Tensor]:
        """The carry's tensors of some clients: ``[last - first, …]``, or without clients where there is one."""
        if last - first == 1:
            return [leaf if at in self.shared else leaf[first] for at, leaf in enumerate(self.leaves)]
        return [leaf if at in self.shared else leaf[first:last] for at, leaf in enumerate(self.leaves)]

    def batch(self, step: int, first: int, last: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets and mask of some clients' batches at ``step``; fewer ``rows`` only for one client."""
        where = first if last - first == 1 else slice(first, last)
        inputs, targets, mask = self.inputs[step, where], self.targets[step, where], self.mask[step, where]
        return (inputs, targets, mask) if rows == self.rows else (inputs[:rows], targets[:rows], mask[:rows])

    def generator(self, member: int) -> torch.Generator:
        """What a client's layers draw from, as kernel ``eager`` seeds it."""
        if member not in self.generators:
            seed = self.members[member].rng.derive("work train")
            self.generators[member] = torch.Generator().manual_seed(seed)
        return self.generators[member]


def gather(
    members: Sequence[Member], form: Form, carries: Sequence[Sequence[Tensor]], shared: frozenset[int], memory: Memory
) -> Stack:
    """The stack of these members; ``carries`` are the tensors of each one's carry.

    Raises:
        ValueError: where the members' examples differ in shape or dtype.
    """
    sizes = [[rows_in(rows) for rows in member.order] for member in members]
    rows, steps = max(map(max, sizes)), len(sizes[0])
    first = members[0].part
    if any(_kind(member.part) != _kind(first) for member in members):
        raise ValueError("the clients' examples differ in dtype or shape")
    inputs = first.inputs.new_empty((steps, len(members), rows, *first.inputs.shape[1:]))
    targets = first.targets.new_empty((steps, len(members), rows, *first.targets.shape[1:]))
    mask = torch.ones(steps, len(members), rows)
    for at, member in enumerate(members):
        index, count = _padded(member.order, rows), len(member.order)
        for into, source in ((inputs, member.part.inputs), (targets, member.part.targets)):
            into[:count, at] = source.index_select(0, index).view(count, rows, *source.shape[1:])
        for step, size in enumerate(sizes[at]):
            if size < rows:
                mask[step, at, size:] = 0
    columns = list(zip(*carries, strict=True))
    leaves = [
        column[0] if at in shared else _stacked(column, memory(at, len(members), column[0]))
        for at, column in enumerate(columns)
    ]
    return Stack(members, form, leaves, shared, rows, inputs, targets, mask, sizes)


def _kind(part: Examples) -> tuple[object, ...]:
    return part.inputs.dtype, part.targets.dtype, part.inputs.shape[1:], part.targets.shape[1:]


def rows_in(rows: Rows) -> int:
    """The number of rows."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _padded(order: Sequence[Rows], rows: int) -> Tensor:
    """The index of every batch, each filled up to ``rows`` with its first: zeros might give infinities, and nothing
    times infinity is not nothing."""  # noqa: D205, D209
    pieces = []
    for each in order:
        index = torch.arange(each.start, each.stop) if isinstance(each, slice) else each
        pieces.append(index)
        if len(index) < rows:
            pieces.append(index[:1].expand(rows - len(index)))
    return torch.cat(pieces)


def _stacked(column: Sequence[Tensor], into: Tensor) -> Tensor:
    """The members' tensors one above the other, ``into`` the memory given."""
    if all(tensor is column[0] for tensor in column):
        return into.copy_(column[0].expand_as(into))
    return torch.stack(list(column), out=into)
