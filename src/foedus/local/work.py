"""What a client does in a phase, as three functions over a carry, and the objective that they train.

A strategy builds :class:`LocalWork` from an objective; a kernel runs it for one client, or for many at once. (The cut
into init, step and finish follows FedJAX, Ro et al. 2021, https://arxiv.org/abs/2108.02117.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from foedus.data.dataset import ClientData
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast, Metrics
from foedus.domain.tree import Parts, State, Tensors

Carry = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Examples for one step. ``mask`` is 1 for real rows and 0 for padding, ``[rows]``; none means all are real."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor | None = None


class Objective(Protocol):
    """The plan's model, loss and metrics, as functions of tensors. Kernels differ in how they compute them."""

    trainable: tuple[str, ...]
    buffers: tuple[str, ...]

    def place(self, model: Tensors) -> dict[str, Tensor]:
        """The model's tensors (a copy) where steps may write to them, by name."""

    def gradient(self, model: Tensors, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The gradients of the trainable parameters and the loss, ``[]``; buffers are updated in place."""

    def measure(self, model: Tensors, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and every metric of the plan, in evaluation mode, each ``[]``."""


@dataclass(frozen=True)
class Finished:
    """What a client's work came to."""

    update: Parts
    weights: Mapping[str, float]
    state: State
    metrics: Metrics


@dataclass(frozen=True)
class LocalWork:
    """``init`` → ``step`` per batch → ``finish``. ``step`` sees tensors only and does no I/O."""

    batches: Callable[[ClientData, State, Randomness], Iterator[Batch]]
    init: Callable[[Broadcast, State, Randomness], Carry]
    step: Callable[[Carry, Batch], tuple[Carry, Mapping[str, Tensor]]]
    finish: Callable[[Broadcast, Carry, ClientData], Finished]


WorkBuilder = Callable[[Objective], LocalWork]
