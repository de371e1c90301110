"""A stack: clients of one fold block that kernel ``graph`` computes together, their tensors one above the other.

The clients stand longest first, so those that still have batches are always the first so many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus.engine.draws import Draw
from foedus.engine.factored import Both, Factors
from foedus.engine.form import Form
from foedus.engine.gram import known
from foedus.engine.laid import Laid, Memory
from foedus.engine.recipe import Recipe
from foedus.engine.tracing import Step


@dataclass
class Stack:
    """``leaves``: the carry's tensors, ``[clients, …]`` each but the ``shared`` and the ``factored`` ones.

    ``factored`` has for a weight's place its factors (:mod:`foedus.engine.factored`).
    """

    laid: Laid
    form: Form
    leaves: list[Tensor]
    shared: frozenset[int]
    factored: Mapping[int, Factors]
    generators: dict[int, torch.Generator] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    carries: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)
    programs: dict[tuple[int, int], Step] = field(default_factory=dict)

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

    def drawn(self, draw: Draw, first: int, last: int) -> Tensor:
        """What a layer draws for some clients, from each one's own generator."""
        made = [draw.make(self.generator(member)) for member in range(first, last)]
        drawn = made[0] if last - first == 1 else torch.stack(made)
        return drawn.to(self.laid.columns[0].device)

    def generator(self, member: int) -> torch.Generator:
        """What a client's layers draw from, as kernel ``eager`` seeds it."""
        if member not in self.generators:
            seed = self.laid.members[member].rng.derive("work train")
            self.generators[member] = torch.Generator().manual_seed(seed)
        return self.generators[member]


def stack_of(
    laid: Laid,
    form: Form,
    carries: Sequence[Sequence[Tensor]],
    shared: frozenset[int],
    recipe: Recipe,
    memory: Memory,
) -> Stack:
    """The stack of these clients; ``carries`` are the tensors of each one's carry, some of them ``shared`` by all."""
    alike = {*shared, *recipe.factored}
    leaves = [
        column[0] if at in alike else _stacked(column, _room(laid.clients, at, column[0], recipe, memory))
        for at, column in enumerate(zip(*carries, strict=True))
    ]
    factored = {at: _factors(laid, at, leaves[at], recipe, memory) for at in recipe.factored}
    return Stack(laid, form, leaves, shared, factored)


def _room(clients: int, at: int, like: Tensor, recipe: Recipe, memory: Memory) -> Tensor:
    """Memory for every client's tensor at this place of the carry."""
    if not recipe.channels_last or like.ndim != 4:
        return memory(str(at), (clients, *like.shape), like)
    first, second, *rest = like.shape
    return memory(str(at), (clients, first, *rest, second), like).movedim(-1, 2)


def _factors(laid: Laid, at: int, weight: Tensor, recipe: Recipe, memory: Memory) -> Factors:
    """A weight's factors; what no step writes to is zero on the left, and finite on the right."""
    (m, n), clients, steps, rows = weight.shape, laid.clients, laid.steps, laid.rows
    left = memory(f"{at} left", (clients, steps * rows, m), weight).zero_()
    if at not in recipe.inputs:
        return Both(left, memory(f"{at} right", (clients, steps * rows, n), weight), rows)
    base = memory(f"{at} base", (steps, clients, rows, m), weight)
    return known(weight, laid.ahead[recipe.inputs[at]], left, base, recipe.other)


def _stacked(column: Sequence[Tensor], into: Tensor) -> Tensor:
    """The members' tensors one above the other, ``into`` the memory given."""
    if all(tensor is column[0] for tensor in column):
        return into.copy_(column[0].expand_as(into))
    return torch.stack([*column, *[column[0]] * (len(into) - len(column))], out=into)
