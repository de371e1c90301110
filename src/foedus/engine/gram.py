"""What a factored weight needs that multiplies the batches' own inputs: all products with them, before the first step.

For ``x W₀ᵀ`` of all batches of all clients one product does, and ``x Rᵀ``, where ``R`` are the inputs of the batches
before, is a part of the client's Gram matrix ``X Xᵀ``. So a step touches no input at all, and copies none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foedus.engine.factored import Product, Where
from foedus.engine.precision import DEFAULT, library, products

EVEN = 64
"""The inputs of a stack are filled up to a multiple of this: a product of sizes that were seen before is faster."""


@dataclass(frozen=True)
class Known:
    """``inputs`` ``[rows, n]`` of all clients, one after the other, so many of each as ``lengths`` says, then zeros.

    The left factor is ``[clients, steps · rows, m]``, the ``base`` ``x W₀ᵀ`` ``[steps, clients, rows, m]`` and the
    ``gram`` ``[clients, steps · rows, steps · rows]``.
    """

    left: Tensor
    base: Tensor
    gram: Tensor
    inputs: Tensor
    lengths: Sequence[int]
    other: int

    def before(self, step: int, where: Where) -> list[Tensor]:
        """The base, and the gram and the left factor of the rows before."""
        begin, end = self._rows(step)
        return [self.base[step, where], self.gram[where, begin:end, :begin], self.left[where, :begin]]

    def now(self, step: int, where: Where) -> list[Tensor]:
        """The left one."""
        begin, end = self._rows(step)
        return [self.left[where, begin:end]]

    def _rows(self, step: int) -> tuple[int, int]:
        rows = self.base.shape[2]
        return step * rows, (step + 1) * rows

    def product(self, scale: float) -> Product:
        """With no rows where a client had no batch."""
        return Product(self.left, self.inputs, self.lengths, scale, self.other)


@dataclass(frozen=True)
class Ahead:
    """The ``inputs`` of all batches, ``lengths`` of each client, and which of them, ``filled``, each batch has.

    ``filled`` is ``[steps · clients · rows]``; a batch that is not full repeats one. A product of ``other``
    multiply-adds goes to the other library.
    """

    inputs: Tensor
    lengths: Sequence[int]
    filled: Tensor
    other: int


def known(weight: Tensor, ahead: Ahead, left: Tensor, base: Tensor, gram: Tensor) -> Known:
    """What is known before the first step, in the memory given; the gram of rows that are no client's is zero."""
    inputs, begin = ahead.inputs.flatten(1), base.shape[2]
    with products(library(ahead.other, inputs.numel() * len(weight))):
        torch.index_select(torch.mm(inputs, weight.T), 0, ahead.filled, out=base.flatten(0, 2))
    gram.zero_()
    with products(DEFAULT):  # each client has a length of its own, and the other library is slow at a size that is new
        for rows, into in zip(torch.split(inputs[: sum(ahead.lengths)], list(ahead.lengths)), gram, strict=False):
            end = (len(rows) - 1) // begin * begin  # no step looks back at the rows of the last batch
            if end > 0:
                torch.mm(rows[begin:], rows[:end].T, out=into[begin : len(rows), :end])
    lengths = [*ahead.lengths, *[0] * (len(gram) - len(ahead.lengths))]
    return Known(left.zero_(), base, gram, inputs, lengths, ahead.other)
