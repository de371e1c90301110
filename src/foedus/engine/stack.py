"""A stack: clients of one fold block that kernel ``graph`` computes together, their tensors one above the other.

The clients stand longest first, so those that still have batches are always the first so many. All batches of all
clients are gathered before the first step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus.data.dataset import Examples
from foedus.domain.rng import Randomness
from foedus.domain.tree import State
from foedus.engine.draws import Draw
from foedus.engine.factored import Both, Factors
from foedus.engine.form import Form, split
from foedus.engine.gram import EVEN, Ahead, known
from foedus.engine.tracing import Step
from foedus.local.work import Rows

Memory = Callable[[str, tuple[int, ...], Tensor], Tensor]
"""``(what for, shape, like) → tensor`` of this shape and the dtype of ``like``, the same memory for every stack."""


@dataclass
class Member:
    """One client of a stack: its randomness, examples, state, and which rows each of its batches has.

    ``sizes`` are the rows of each batch, ``rows`` those of all.
    """

    rng: Randomness
    part: Examples
    state: State
    order: Sequence[Rows]

    sizes: list[int] = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = [rows_in(rows) for rows in self.order]
        self.rows = sum(self.sizes)


@dataclass
class Stack:
    """``leaves``: the carry's tensors, ``[clients, …]`` each but the ``shared`` and the ``factored`` ones.

    ``factored`` has for a weight's place its factors (:mod:`foedus.engine.factored`).

    ``columns`` are the tensors of all batches, of which each is made as ``batch_form`` says: inputs, targets and, if
    padded, the mask, ``[steps, clients, rows, …]``. A short batch is filled up with a real row, a client that has ended
    repeats its first; the mask is 1 for real rows. ``sizes[client][step]`` are the real rows. A column of which no step
    reads more than is known ahead (:mod:`foedus.engine.gram`) stands for its shape alone.
    """

    members: Sequence[Member]
    clients: int
    form: Form
    leaves: list[Tensor]
    shared: frozenset[int]
    factored: Mapping[int, Factors]
    rows: int
    columns: list[Tensor]
    batch_form: Form
    sizes: list[list[int]]
    generators: dict[int, torch.Generator] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    carries: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)
    programs: dict[tuple[int, int], Step] = field(default_factory=dict)

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
        for rows, same in itertools.groupby(sizes[step] for sizes in self.sizes[: self.active(step)]):
            count = len(list(same))
            yield at, at + count, rows
            at += count

    def carry(self, first: int, last: int) -> list[Tensor]:
        """The carry's tensors of some clients: ``[last - first, …]``, or without clients where there is one."""
        if (first, last) not in self.carries:
            where = first if last - first == 1 else slice(first, last)
            alike = {*self.shared, *self.factored}
            self.carries[first, last] = [leaf if at in alike else leaf[where] for at, leaf in enumerate(self.leaves)]
        return self.carries[first, last]

    def factors(self, step: int, first: int, last: int) -> tuple[list[Tensor], list[Tensor]]:
        """The factors of some clients' weights: those before ``step``, and where those of ``step`` go."""
        where = first if last - first == 1 else slice(first, last)
        before = [tensor for each in self.factored.values() for tensor in each.before(step, where)]
        return before, [tensor for each in self.factored.values() for tensor in each.now(step, where)]

    def batch(self, step: int, first: int, last: int, rows: int) -> list[Tensor]:
        """The tensors of some clients' batches at ``step``; fewer ``rows`` only for one client."""
        where = first if last - first == 1 else slice(first, last)
        if rows == self.rows:
            return [column[step, where] for column in self.columns]
        return [column[step, where, :rows] for column in self.columns]

    def drawn(self, draw: Draw, first: int, last: int) -> Tensor:
        """What a layer draws for some clients, from each one's own generator."""
        made = [draw.make(self.generator(member)) for member in range(first, last)]
        drawn = made[0] if last - first == 1 else torch.stack(made)
        return drawn.to(self.columns[0].device)

    def generator(self, member: int) -> torch.Generator:
        """What a client's layers draw from, as kernel ``eager`` seeds it."""
        if member not in self.generators:
            seed = self.members[member].rng.derive("work train")
            self.generators[member] = torch.Generator().manual_seed(seed)
        return self.generators[member]


@dataclass(frozen=True)
class Cut:
    """How carries are laid out: room for so many ``clients``, at least the members.

    What of it is ``shared``; which weights are ``factored``, and which column of the batch those of ``inputs``
    multiply, all at once; from how many multiply-adds on a product goes to the ``other`` library
    (:mod:`foedus.engine.precision`); whether batches are ``padded``, and leaves of four dimensions have
    ``channels_last``; and the ``memory`` for the rest.
    """

    clients: int
    padded: bool
    shared: frozenset[int]
    factored: Sequence[int]
    inputs: Mapping[int, int]
    other: int
    channels_last: bool
    memory: Memory

    def room(self, at: int, like: Tensor) -> Tensor:
        """Memory for every client's tensor at this place of the carry."""
        shape = (self.clients, *like.shape)
        if not self.channels_last or like.ndim != 4:
            return self.memory(str(at), shape, like)
        clients, first, second, *rest = shape
        return self.memory(str(at), (clients, first, *rest, second), like).movedim(-1, 2)


def gather(members: Sequence[Member], form: Form, carries: Sequence[Sequence[Tensor]], cut: Cut) -> Stack:
    """The stack of these members; ``carries`` are the tensors of each one's carry.

    Raises:
        ValueError: where the members' examples differ in shape or dtype.
    """
    sizes = [member.sizes for member in members]
    rows, steps = max(map(max, sizes)), len(sizes[0])
    if len({_kind(member.part) for member in members}) > 1:
        raise ValueError("the clients' examples differ in dtype or shape")
    batch_form, _ = split({"inputs": members[0].part.inputs, "targets": members[0].part.targets})
    indices, size = [_padded(member, rows) for member in members], (steps, cut.clients, rows)
    lengths = [index.size(0) for index in indices]
    parts = [list(member.part.tensors.values()) for member in members]
    filled = _filled(lengths, size).to(parts[0][0].device)
    ahead, columns = dict[int, Ahead](), list[Tensor]()
    for at, column in enumerate(zip(*parts, strict=True)):
        shape = column[0].shape[1:]
        joined = _joined(
            column, indices, cut.memory(f"column {at}", (-(-sum(lengths) // EVEN) * EVEN, *shape), column[0])
        )
        if at in cut.inputs.values():
            ahead[at] = Ahead(joined, lengths, filled, cut.other)
            columns.append(joined[0].expand(*size, *shape))
        else:
            columns.append(joined.index_select(0, filled).view(*size, *shape))
    if cut.padded:
        batch_form = Form((*batch_form.spec, ("mask", None)))
        columns.append(_mask(sizes, size).to(columns[0].device))
    alike = {*cut.shared, *cut.factored}
    leaves = [
        column[0] if at in alike else _stacked(column, cut.room(at, column[0]))
        for at, column in enumerate(zip(*carries, strict=True))
    ]
    first = {at: ahead[column] for at, column in cut.inputs.items()}
    factored = {at: _factors(cut, at, leaves[at], size, first.get(at)) for at in cut.factored}
    return Stack(members, cut.clients, form, leaves, cut.shared, factored, rows, columns, batch_form, sizes)


def _factors(cut: Cut, at: int, weight: Tensor, size: tuple[int, int, int], first: Ahead | None) -> Factors:
    """A weight's factors; what no step writes to is zero on the left, and finite on the right."""
    (m, n), (steps, clients, rows) = weight.shape, size
    left = cut.memory(f"{at} left", (clients, steps * rows, m), weight)
    if first is None:
        return Both(left.zero_(), cut.memory(f"{at} right", (clients, steps * rows, n), weight), rows)
    base = cut.memory(f"{at} base", (*size, m), weight)
    return known(weight, first, left, base, cut.memory(f"{at} gram", (clients, steps * rows, steps * rows), weight))


def _joined(tensors: Sequence[Tensor], indices: Sequence[Tensor], into: Tensor) -> Tensor:
    """One tensor of all batches of every client, the clients one after the other, then zeros."""
    lengths = [index.size(0) for index in indices]
    *places, rest = torch.split(into, [*lengths, len(into) - sum(lengths)])
    rest.zero_()
    for tensor, index, place in zip(tensors, indices, places, strict=True):
        torch.index_select(tensor, 0, index.to(tensor.device), out=place)
    return into


def _filled(lengths: Sequence[int], size: tuple[int, int, int]) -> Tensor:
    """Which of the joined rows each step, client and batch has; where there is none, the client's first, or the first.

    Zeros might give infinities, and nothing times infinity is not nothing.
    """
    steps, clients, rows = size
    length = torch.tensor([*lengths, *[0] * (clients - len(lengths))])
    begin = torch.where(length > 0, length.cumsum(0) - length, 0)
    place = torch.arange(steps * rows).view(steps, 1, rows)
    return torch.where(place < length[:, None], place, 0).add_(begin[:, None]).view(-1)


def _mask(sizes: Sequence[Sequence[int]], size: tuple[int, int, int]) -> Tensor:
    steps, clients, rows = size
    real = torch.zeros(clients, steps, dtype=torch.long)
    real[: len(sizes)] = torch.tensor([[*each, *[0] * (steps - len(each))] for each in sizes])
    return (torch.arange(rows) < real.T[:, :, None]).float()


def _kind(part: Examples) -> tuple[object, ...]:
    return tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in part.tensors.items())


def rows_in(rows: Rows) -> int:
    """The number of rows."""
    return rows.stop - rows.start if isinstance(rows, slice) else rows.size(0)


def _padded(member: Member, rows: int) -> Tensor:
    """The index of every batch, each but the last filled up to ``rows`` with its first."""
    pieces = [torch.arange(each.start, each.stop) if isinstance(each, slice) else each for each in member.order]
    for at, size in enumerate(member.sizes[:-1]):
        if size < rows:
            pieces[at] = torch.cat([pieces[at], pieces[at][:1].expand(rows - size)])
    return torch.cat(pieces)


def _stacked(column: Sequence[Tensor], into: Tensor) -> Tensor:
    """The members' tensors one above the other, ``into`` the memory given."""
    if all(tensor is column[0] for tensor in column):
        return into.copy_(column[0].expand_as(into))
    return torch.stack([*column, *[column[0]] * (len(into) - len(column))], out=into)


def abridged(order: Sequence[Rows]) -> Sequence[Rows]:
    """The first two batches, and the last."""
    return [*order[:2], *order[-1:]] if len(order) > 3 else order
