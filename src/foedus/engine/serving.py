"""What a worker process does, and the messages between it and executor ``workers``.

The messages travel by :mod:`multiprocessing`'s own transport between processes of one simulation, and nowhere else.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from foedus.domain.codec import decode, encode
from foedus.domain.errors import FoedusError, RunFailedError
from foedus.domain.plain import Json
from foedus.domain.round import Broadcast, Metrics, PhaseOrder, Receipt
from foedus.domain.tree import State
from foedus.engine.forking import listen
from foedus.engine.kernels import ClientSource, Kernel, Outcome, PhaseWork
from foedus.engine.memory import Arena, Packed
from foedus.strategies.strategy import Phase

PackedState = tuple[bytes, Mapping[str, Json]]


@dataclass(frozen=True)
class Setup:
    """What a worker inherits by fork: how to work, for whom, and the memory that it shares with the parent."""

    kernel: Kernel
    source: ClientSource
    phases: tuple[Phase, ...]
    broadcast: Arena
    results: Arena


@dataclass(frozen=True)
class Job:
    """Clients to work for, in a phase by its number among the inherited ones. ``fold``: they are a whole block."""

    phase: int
    order: PhaseOrder
    broadcast: Packed
    options: Mapping[str, Json]
    states: Mapping[str, PackedState]
    seed: int
    clients: tuple[str, ...]
    fold: bool


@dataclass(frozen=True)
class Folded:
    """A block's partial sum, receipts and new client states."""

    sums: Packed
    weights: dict[str, float]
    count: int
    receipts: tuple[Receipt, ...]
    states: Mapping[str, PackedState]


@dataclass(frozen=True)
class Row:
    """One client's outcome; ``update`` is none where it failed."""

    client: str
    update: Packed | None
    weights: Mapping[str, float]
    metrics: Metrics
    seconds: float
    state: PackedState
    failure: str


@dataclass(frozen=True)
class Ran:
    """Outcomes that the parent will fold."""

    rows: tuple[Row, ...]


Reply = Folded | Ran | FoedusError


def serve(setup: Setup, pipe: Connection, inherited: tuple[Connection, ...]) -> None:
    """Answer jobs until the parent closes its end of the pipe, or is gone."""
    listen()
    torch.set_num_threads(1)
    gc.freeze()  # what was inherited lives as long as the worker; looking through it would copy its pages
    for other in inherited:
        other.close()
    while True:
        try:
            job: Job = pipe.recv()
            pipe.send(_answer(setup, job))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _answer(setup: Setup, job: Job) -> Reply:
    try:
        return _run(setup, job)
    except FoedusError as error:
        return error
    except Exception:
        return RunFailedError("worker_failed", "A worker process failed.", traceback.format_exc(limit=-3))


def _run(setup: Setup, job: Job) -> Reply:
    states = {client: unpack_state(state) for client, state in job.states.items()}
    broadcast = Broadcast(setup.broadcast.read(job.broadcast), job.options)
    work = PhaseWork(job.order, setup.phases[job.phase], broadcast, states, job.seed)
    if not job.fold:
        ran = list(setup.kernel.run(work, job.clients, setup.source))
        packed = setup.results.write([made.contribution.update if made.contribution else {} for made in ran])
        return Ran(tuple(_row(outcome, update) for outcome, update in zip(ran, packed, strict=True)))
    block = setup.kernel.fold(work, job.clients, setup.source)
    (sums,) = setup.results.write([block.sums.tensors])
    packed_states = {client: pack_state(state) for client, state in block.states.items()}
    return Folded(sums, block.sums.weights, block.sums.count, block.receipts, packed_states)


def _row(outcome: Outcome, update: Packed) -> Row:
    made, state = outcome.contribution, pack_state(outcome.state)
    if made is None:
        return Row(outcome.client, None, {}, {}, 0.0, state, outcome.failure)
    return Row(outcome.client, update, made.weights, made.metrics, made.seconds, state, "")


def pack_state(state: State) -> PackedState:
    """A client's state as bytes (none where it has no tensors) and plain data."""
    return (encode(State(state.tensors)) if state.tensors else b""), dict(state.data)


def unpack_state(packed: PackedState) -> State:
    """The state that :func:`pack_state` packed."""
    content, data = packed
    return State(decode(content).tensors if content else {}, data)
