"""What a client does in a phase, as three functions over a carry, and the objective that they train.

A strategy builds :class:`LocalWork` from an objective; a kernel runs it for one client, or for many at once. (The cut
into init, step and finish follows FedJAX, Ro et al. 2021, https://arxiv.org/abs/2108.02117.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from foedus.data.dataset import Examples, Values
from foedus.domain.plain import Json
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast
from foedus.domain.tree import Parts, State, Tensors

Carry = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Examples for one step. ``mask`` is 1 for real rows and 0 for padding, ``[rows]``; none means all are real."""

    inputs: Values
    targets: Values
    mask: Tensor | None = None

    @property
    def rows(self) -> Tensor | int:
        """The number of real rows."""
        return len(Examples(self.inputs, self.targets)) if self.mask is None else self.mask.sum()


def output_of(module: Callable[..., Any], inputs: Values) -> Any:
    """The model's output; several inputs by name are its keyword arguments."""
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


AT_ONCE = 1024
"""Rows that are measured at once."""


class Measured(Protocol):
    """A model that can be measured, at most ``at_once`` rows in a batch: all that evaluation asks of a plan."""

    at_once: int

    def place(self, model: Tensors) -> dict[str, Tensor]:
        """The model's tensors (a copy) where steps may write to them, by name."""

    def measure(self, model: Tensors, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and every metric of the plan, in evaluation mode, each ``[]``."""


class Objective(Measured, Protocol):
    """The plan's model, loss and metrics, as functions of tensors. Kernels differ in how they compute them."""

    trainable: tuple[str, ...]
    buffers: tuple[str, ...]

    def gradient(self, model: Tensors, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The gradients of the trainable parameters and the loss, ``[]``; buffers are updated in place."""


Rows = Tensor | slice
"""The examples of one batch: their indices ``[n]``, or a range of them, which copies nothing."""


@dataclass(frozen=True)
class Finished:
    """What the tensors of a client's work came to. ``metrics`` are sums over the examples of all batches, each ``[]``.

    ``state`` holds the tensors of the client's next state; ``weights`` are those that the work itself says.
    """

    update: Parts
    metrics: Mapping[str, Tensor]
    state: Parts = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Account:
    """What a client's work counts for: the weights of its contribution, and the plain data of its next state."""

    weights: Mapping[str, float]
    data: Mapping[str, Json]


@dataclass(frozen=True)
class LocalWork:
    """``order`` says which examples each batch has; then ``init``, ``step`` per batch and ``finish``.

    The last three are functions of tensors (a carry is a tree of dicts of tensors) that do no I/O, so that a kernel may
    trace them over many clients. ``account(examples, state)`` has what is no tensor.
    """

    order: Callable[[int, State, Randomness], Sequence[Rows]]
    init: Callable[[Broadcast, State, Randomness], Carry]
    step: Callable[[Carry, Batch], tuple[Carry, Mapping[str, Tensor]]]
    finish: Callable[[Broadcast, Carry], Finished]
    account: Callable[[int, State], Account]


WorkBuilder = Callable[[Any], LocalWork]
"""What an objective is asked for is the work's own: to be measured, to give gradients, or to train by itself."""
