"""The weighted mean (McMahan et al. 2017, Algorithm 1: the sum over k of n_k/n · w_k), as a fold.

Rule for dtypes: float32, float16 and bfloat16 are summed in float32, float64 in float64. Integers and booleans
(BatchNorm's ``num_batches_tracked``, say) are summed in float64, and their mean is rounded half to even. Every tensor
keeps its dtype.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foedus.aggregation.aggregator import Aggregator, Sums
from foedus.domain.tree import Parts


def weighted_mean(weight_of: Mapping[str, str], dtypes: Mapping[str, Mapping[str, torch.dtype]]) -> Aggregator:
    """The mean of each part, weighted by the weight that ``weight_of`` names for it.

    ``dtypes`` (part → name → dtype) says what the mean is cast back to.

    >>> mean = weighted_mean({"p": "examples"}, {"p": {"w": torch.float32}})
    >>> one = mean.add(mean.zero(), {"p": {"w": torch.zeros(1)}}, {"examples": 1.0})
    >>> mean.finish(mean.add(one, {"p": {"w": torch.full((1,), 4.0)}}, {"examples": 3.0}))
    {'p': {'w': tensor([3.])}}
    """

    def add(sums: Sums, update: Parts, weights: Mapping[str, float]) -> Sums:
        for part, tensors in update.items():
            weight = weights[weight_of[part]]
            into = sums.tensors.setdefault(part, {})
            for name, tensor in tensors.items():
                if name not in into:
                    into[name] = torch.zeros(tensor.shape, dtype=accumulator(tensor.dtype))
                into[name].add_(tensor.to(into[name].dtype), alpha=weight)
            sums.weights[part] = sums.weights.get(part, 0.0) + weight
        sums.count += 1
        return sums

    def finish(sums: Sums) -> Parts:
        return {
            part: {name: cast(total / sums.weights[part], dtypes[part][name]) for name, total in tensors.items()}
            for part, tensors in sums.tensors.items()
        }

    return Aggregator(Sums, add, merge, finish, linear=True)


def merge(sums: Sums, other: Sums) -> Sums:
    """``sums + other``, written into ``sums``."""
    for part, tensors in other.tensors.items():
        into = sums.tensors.setdefault(part, {})
        for name, tensor in tensors.items():
            if name in into:
                into[name].add_(tensor)
            else:
                into[name] = tensor.clone()
        sums.weights[part] = sums.weights.get(part, 0.0) + other.weights[part]
    sums.count += other.count
    return sums


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that tensors of ``dtype`` are summed in."""
    if dtype in (torch.float32, torch.float16, torch.bfloat16):
        return torch.float32
    return torch.float64


def cast(mean: Tensor, dtype: torch.dtype) -> Tensor:
    """A mean in the dtype that its tensor has; of integers and booleans it is rounded half to even."""
    return mean.to(dtype) if dtype.is_floating_point else mean.round().to(dtype)
