"""What a worker process does, and the messages between it and executor ``workers``.

The messages travel by :mod:`multiprocessing`'s own transport between processes of one simulation, and nowhere else.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

import torch

from foedus.domain.plain import Json
from foedus.domain.round import Broadcast, PhaseOrder
from foedus.engine.dealing import done
from foedus.engine.forking import listen
from foedus.engine.kernels import ClientSource, Kernel, PhaseWork
from foedus.engine.memory import Arena, Packed
from foedus.engine.packing import Folded, PackedState, Row, answer, pack, unpack_state
from foedus.strategies.strategy import Phase


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


def serve(setup: Setup, pipe: Connection, inherited: tuple[Connection, ...]) -> None:
    """Answer jobs until the parent closes its end of the pipe, or is gone."""
    listen()
    torch.set_num_threads(1)
    with suppress(OSError):  # a worker that is woken lets the parent wake the next; some sandboxes do not let it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    gc.freeze()  # what was inherited lives as long as the worker; looking through it would copy its pages
    for other in inherited:
        other.close()
    while True:
        try:
            pipe.send(answer(partial(_work, setup, pipe.recv())))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _work(setup: Setup, job: Job) -> Folded | tuple[Row, ...]:
    states = {client: unpack_state(state) for client, state in job.states.items()}
    broadcast = Broadcast(setup.broadcast.read(job.broadcast), job.options)
    work = PhaseWork(job.order, setup.phases[job.phase], broadcast, states, job.seed)
    return pack(done(setup.kernel, work, job.clients, setup.source, fold=job.fold), setup.results.write)
