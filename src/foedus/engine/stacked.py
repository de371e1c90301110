"""What a stack came to: a row of tensors for each client, and their weighted sums."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foedus.aggregation.aggregator import Sums
from foedus.aggregation.mean import accumulator
from foedus.domain.round import Schema
from foedus.domain.tree import Parts
from foedus.engine.client import Worked
from foedus.engine.factored import Product
from foedus.engine.laid import Member


@dataclass(frozen=True)
class Done:
    """What a stack came to: per client a row of ``update``, weights, metrics and next state.

    The update has ``clients`` rows, of which the members' are the first.
    """

    members: Sequence[Member]
    clients: int
    update: Mapping[str, Mapping[str, Tensor | Product]]
    accounts: Sequence[Worked]
    failed: frozenset[int] = frozenset()

    @property
    def size(self) -> int:
        """The bytes of one client's update."""
        return sum(_size_of(tensor) for tensors in self.update.values() for tensor in tensors.values())

    @property
    def rows(self) -> dict[str, int]:
        """Each client's row; those that failed have none."""
        return {member.rng.client: at for at, member in enumerate(self.members) if at not in self.failed}


def row_of(parts: Mapping[str, Mapping[str, Tensor | Product]], at: int) -> dict[str, dict[str, Tensor]]:
    """One client's tensors of a stack."""
    return {
        part: {name: t.row(at) if isinstance(t, Product) else t[at] for name, t in tensors.items()}
        for part, tensors in parts.items()
    }


def own(parts: Parts) -> Parts:
    """The same, in memory of its own, without gaps and in the order of the dimensions."""
    return {
        part: {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        for part, tensors in parts.items()
    }


def summed(done: Done, schema: Schema) -> Sums:
    """The sums of a stack, as an aggregator that is linear would make them one by one."""
    rows = list(done.rows.values())
    weights = {name: torch.zeros(done.clients, dtype=torch.float64) for name in schema.weights}
    for at in rows:
        for name, weight in done.accounts[at].weights.items():
            weights[name][at] = weight
    by_part = {part: weights[schema.parts[part].weight] for part in done.update}
    tensors = {
        part: {name: _weighted(tensor, by_part[part]) for name, tensor in tensors.items()}
        for part, tensors in done.update.items()
    }
    return Sums(tensors, {part: float(each.sum()) for part, each in by_part.items()}, len(rows))


def _weighted(tensor: Tensor | Product, weights: Tensor) -> Tensor:
    """The weighted sum over clients, in the dtype that the mean sums in."""
    if isinstance(tensor, Product):
        return tensor.weighted(weights.to(tensor.left.device, tensor.left.dtype))
    wide = tensor.to(accumulator(tensor.dtype))
    rows = wide.flatten(1) if wide.ndim > 1 else wide[:, None]  # a single number of each client has no second dimension
    return torch.mv(rows.T, weights.to(wide.device, wide.dtype)).view(wide.shape[1:])


def _size_of(tensor: Tensor | Product) -> int:
    """What one client's tensor takes."""
    if isinstance(tensor, Product):
        return tensor.left.shape[-1] * tensor.right.shape[-1] * tensor.left.element_size()
    return tensor[0].nbytes


def is_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor infinity; a finite sum says so in one pass."""
    return not tensor.dtype.is_floating_point or math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())
