"""The batches of a stack's clients, laid out in memory: all of them before the first step.

The clients stand longest first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus.data.dataset import Examples
from foedus.domain.rng import Randomness
from foedus.domain.tree import State
from foedus.engine.form import Form, split
from foedus.engine.gram import EVEN, Ahead, ahead_of
from foedus.engine.recipe import Recipe
from foedus.local.work import Rows


class Memory:
    """Memory for tensors, the same for every stack."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(self, what: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of this shape and the dtype of ``like``, with what was last there."""
        held, size = self._held.get(what), math.prod(shape)
        if held is None or held.numel() < size or held.dtype != like.dtype:
            held = self._held[what] = torch.zeros(size, dtype=like.dtype, device=like.device)
        return held[:size].view(shape)

    def clear(self) -> None:
        """Let go of all of it."""
        self._held.clear()


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


@dataclass(frozen=True)
class Laid:
    """The batches of so many ``clients``, of which the ``members`` are the first.

    ``columns`` are the tensors of all batches, of which each is made as ``form`` says: inputs, targets and, if padded,
    the mask, ``[steps, clients, rows, …]``. A short batch is filled up with a real row, a client that has ended repeats
    its first; the mask is 1 for real rows. ``sizes[client][step]`` are the real rows. A column of ``ahead``, by its
    place, of which no step reads more than is known ahead (:mod:`foedus.engine.gram`), stands for its shape alone.
    """

    members: Sequence[Member]
    clients: int
    rows: int
    sizes: list[list[int]]
    columns: list[Tensor]
    form: Form
    ahead: Mapping[int, Ahead]

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

    def batch(self, step: int, first: int, last: int, rows: int) -> list[Tensor]:
        """The tensors of some clients' batches at ``step``; fewer ``rows`` only for one client."""
        where = first if last - first == 1 else slice(first, last)
        if rows == self.rows:
            return [column[step, where] for column in self.columns]
        return [column[step, where, :rows] for column in self.columns]


def lay(members: Sequence[Member], recipe: Recipe, memory: Memory) -> Laid:
    """The batches of these members.

    Raises:
        ValueError: where the members' examples differ in shape or dtype.
    """
    members = sorted(members, key=lambda member: (-len(member.order), -member.rows))
    clients = recipe.stack if recipe.still else len(members)
    sizes = [member.sizes for member in members]
    rows, steps = max(map(max, sizes)), len(sizes[0])
    if len({_kind(member.part) for member in members}) > 1:
        raise ValueError("the clients' examples differ in dtype or shape")
    form, _ = split({"inputs": members[0].part.inputs, "targets": members[0].part.targets})
    indices, size = [_padded(member, rows) for member in members], (steps, clients, rows)
    lengths = [index.size(0) for index in indices]
    parts = [list(member.part.tensors.values()) for member in members]
    filled = _filled(lengths, size).to(parts[0][0].device)
    ahead, columns = dict[int, Ahead](), list[Tensor]()
    for at, column in enumerate(zip(*parts, strict=True)):
        shape = column[0].shape[1:]
        joined = _joined(column, indices, memory(f"column {at}", (-(-sum(lengths) // EVEN) * EVEN, *shape), column[0]))
        if at in recipe.inputs.values():
            gram = memory(f"gram {at}", (clients, steps * rows, steps * rows), joined)
            ahead[at] = ahead_of(joined, lengths, filled, rows, gram)
            columns.append(joined[0].expand(*size, *shape))
        else:
            batches = memory(f"batches {at}", (*size, *shape), joined)
            torch.index_select(joined, 0, filled, out=batches.flatten(0, 2))
            columns.append(batches)
    if recipe.padded:
        form = Form((*form.spec, ("mask", None)))
        columns.append(_mask(sizes, size).to(columns[0].device))
    return Laid(members, clients, rows, sizes, columns, form, ahead)


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


def abridged(order: Sequence[Rows]) -> Sequence[Rows]:
    """The first two batches, and the last."""
    return [*order[:2], *order[-1:]] if len(order) > 3 else order
