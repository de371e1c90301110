"""Memory that the processes of one simulation share: anonymous, inherited by fork, gone with its last process.

The broadcast is written into one such arena once per phase; each worker writes what it computed into another. Unlike
``/dev/shm``, which containers keep small, it has no name and no limit of its own.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foedus.domain.codec import decode, encode
from foedus.domain.tree import Parts, State, clone

ALIGNMENT = 64


@dataclass(frozen=True)
class Placed:
    """Where one tensor lies in an arena."""

    part: str
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


Packed = tuple[Placed, ...] | bytes
"""A tree as it crosses a pipe: where it lies in the arena, or its bytes where the arena had no room left."""


class Arena:
    """``size`` bytes of shared memory for trees of tensors."""

    def __init__(self, size: int) -> None:
        self.size = max(size, mmap.PAGESIZE)
        self._memory = torch.frombuffer(mmap.mmap(-1, self.size), dtype=torch.uint8)

    def write(self, trees: Sequence[Parts]) -> list[Packed]:
        """Copy the trees in, over what was there before."""
        packed: list[Packed] = []
        at = 0
        for tree in trees:
            if at + room(tree) > self.size:
                packed.append(encode(State(tree)))
                continue
            placed = []
            for part, tensors in tree.items():
                for name, tensor in tensors.items():
                    placed.append(Placed(part, name, tensor.dtype, tuple(tensor.shape), at))
                    self._view(placed[-1]).copy_(tensor)
                    at += _aligned(tensor)
            packed.append(tuple(placed))
        return packed

    def read(self, packed: Packed) -> dict[str, dict[str, Tensor]]:
        """The tree; its tensors are views of the arena, or fresh where it had no room."""
        if isinstance(packed, bytes):
            return {part: dict(tensors) for part, tensors in decode(packed).tensors.items()}
        tree: dict[str, dict[str, Tensor]] = {}
        for placed in packed:
            tree.setdefault(placed.part, {})[placed.name] = self._view(placed)
        return tree

    def copied(self, packed: Packed) -> dict[str, dict[str, Tensor]]:
        """The tree, in memory of its own."""
        return {part: clone(tensors) for part, tensors in self.read(packed).items()}

    def _view(self, placed: Placed) -> Tensor:
        elements = torch.Size(placed.shape).numel()
        stop = placed.offset + elements * placed.dtype.itemsize
        return self._memory[placed.offset : stop].view(placed.dtype).view(placed.shape)


def room(tree: Parts) -> int:
    """The bytes that a tree takes in an arena."""
    return sum(_aligned(tensor) for tensors in tree.values() for tensor in tensors.values())


def _aligned(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
