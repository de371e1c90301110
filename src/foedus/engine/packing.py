"""What came of clients' work, as it crosses from the process that did it to the one that folds.

How the trees of tensors travel is the executor's: ``write`` and ``read`` put them into memory that both see, or into
bytes. The rest goes by the executor's own transport, between processes of one simulation and nowhere else.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from foedus.aggregation.aggregator import Sums
from foedus.domain.codec import decode, encode
from foedus.domain.errors import FoedusError, RunFailedError
from foedus.domain.plain import Json
from foedus.domain.round import Contribution, Metrics, Receipt
from foedus.domain.tree import Parts, State
from foedus.engine.dealing import Part
from foedus.engine.kernels import BlockResult, Outcome

PackedState = tuple[bytes, Mapping[str, Json]]

Payload = Any
"""A tree on its way: what ``write`` makes of it, and ``read`` alone looks into."""

Write = Callable[[Sequence[Parts]], Sequence[Payload]]
Read = Callable[[Payload], Parts]
"""Gives the tree, in memory of its own."""


@dataclass(frozen=True)
class Folded:
    """A block's partial sum, receipts and new client states."""

    sums: Payload
    weights: dict[str, float]
    count: int
    receipts: tuple[Receipt, ...]
    states: Mapping[str, PackedState]


@dataclass(frozen=True)
class Row:
    """One client's outcome; ``update`` is none where it failed."""

    client: str
    update: Payload | None
    weights: Mapping[str, float]
    metrics: Metrics
    seconds: float
    state: PackedState
    failure: str


Reply = Folded | tuple[Row, ...] | FoedusError
Answer = TypeVar("Answer")


def answer(do: Callable[[], Answer]) -> Answer | FoedusError:
    """What ``do`` returns, or the error that it raised, which keeps its code on the way."""
    try:
        return do()
    except FoedusError as error:
        return error
    except Exception:
        return RunFailedError("worker_failed", "A worker process failed.", traceback.format_exc(limit=-3))


def pack(part: Part, write: Write) -> Folded | tuple[Row, ...]:
    """A block's sum, or clients' outcomes, as they cross."""
    if isinstance(part, BlockResult):
        (sums,) = write([part.sums.tensors])
        states = {client: pack_state(state) for client, state in part.states.items()}
        return Folded(sums, part.sums.weights, part.sums.count, part.receipts, states)
    updates = write([outcome.contribution.update if outcome.contribution else {} for outcome in part])
    return tuple(_row(outcome, update) for outcome, update in zip(part, updates, strict=True))


def unpack(reply: Reply, read: Read) -> Part:
    """What was packed, in memory of this process.

    Raises:
        FoedusError: the one that the worker answered with.
    """
    if isinstance(reply, FoedusError):
        raise reply
    if isinstance(reply, Folded):
        sums = Sums(_own(read(reply.sums)), reply.weights, reply.count)
        return BlockResult(sums, reply.receipts, {client: unpack_state(s) for client, s in reply.states.items()})
    return [_outcome(row, read) for row in reply]


def pack_state(state: State) -> PackedState:
    """A client's state as bytes (none where it has no tensors) and plain data."""
    return (encode(State(state.tensors)) if state.tensors else b""), dict(state.data)


def unpack_state(packed: PackedState) -> State:
    """The state that :func:`pack_state` packed."""
    content, data = packed
    return State(decode(content).tensors if content else {}, data)


def _row(outcome: Outcome, update: Payload) -> Row:
    made, state = outcome.contribution, pack_state(outcome.state)
    if made is None:
        return Row(outcome.client, None, {}, {}, 0.0, state, outcome.failure)
    return Row(outcome.client, update, made.weights, made.metrics, made.seconds, state, "")


def _outcome(row: Row, read: Read) -> Outcome:
    made = None
    if row.update is not None:
        made = Contribution(row.client, _own(read(row.update)), row.weights, row.metrics, row.seconds)
    return Outcome(row.client, made, unpack_state(row.state), row.failure)


def _own(tree: Parts) -> dict[str, dict[str, Tensor]]:
    return {part: dict(tensors) for part, tensors in tree.items()}
