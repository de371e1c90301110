"""Executor ``workers``: one process per core, forked before round 1, one intra-op thread each.

Plan, data and phases are inherited by fork; the broadcast and the results cross in shared memory, and small messages on
a pipe per worker. The parent waits for events and never polls. Whole fold blocks go out where there are enough to keep
every worker busy, and are folded by the worker; where there are few, their parts go out and the parent folds. Either
way the sums are made as :attr:`PhaseOrder.blocks` says, so the bits are those of executor ``inline``.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

from foedus.domain.errors import ConfigError
from foedus.engine.dealing import Dealt, Item, Numbered, in_order, items_of, parts_of, unfolded
from foedus.engine.forking import undisturbed
from foedus.engine.kernels import BlockResult, ClientSource, Kernel, Outcome, PhaseWork
from foedus.engine.memory import Arena, Packed, room
from foedus.engine.packing import Reply, pack_state, unpack
from foedus.engine.serving import Job, Setup, serve
from foedus.strategies.strategy import Phase


def available() -> bool:
    """Whether this platform can fork safely (Linux)."""
    return sys.platform.startswith("linux") and "fork" in multiprocessing.get_all_start_methods()


@dataclass
class _Worker:
    process: ForkProcess
    pipe: Connection
    results: Arena
    item: Item | None = None


class WorkersExecutor:
    """Runs fold blocks on ``count`` forked processes. ``phases`` are those known before round 1."""

    name = "workers"

    def __init__(self, kernel: Kernel, source: ClientSource, count: int, phases: Sequence[Phase] = ()) -> None:
        if not available():
            raise ConfigError(
                "executor_unavailable",
                "The executor `workers` needs fork, which this platform does not offer safely.",
                "",
                "Use `--executor inline`, or `auto`.",
            )
        self._kernel, self._source, self._count = kernel, source, count
        self._phases = list(phases)
        self._broadcast, self._room = Arena(0), 0
        self._workers: list[_Worker] = []

    @property
    def processes(self) -> tuple[int, ...]:
        """The workers' process ids."""
        return tuple(worker.process.pid for worker in self._workers if worker.process.pid is not None)

    def start(self, room_for: int = 0) -> None:
        """Fork the workers, with ``room_for`` bytes for the broadcast and twice as many for each one's results."""
        self.close()
        self._broadcast, self._room = Arena(room_for), room_for
        for _ in range(self._count):
            self._workers.append(self._fork())

    def run(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Iterator[BlockResult]:
        """The blocks' results in the blocks' order, each as soon as those before it are there."""
        items = items_of(self._kernel, work, blocks, self._count)
        yield from in_order(work, self._results(work, items))

    def outcomes(self, work: PhaseWork, clients: tuple[str, ...]) -> Iterator[Outcome]:
        """What became of each client's work, when all is done."""
        yield from unfolded(self._results(work, parts_of(self._kernel, work, clients)))

    def _results(self, work: PhaseWork, items: list[Item]) -> Iterator[Numbered]:
        """Blocks by their number, as they are finished; workers that were left at work are ended."""
        self._ready_for(work)
        (broadcast,) = self._broadcast.write([work.broadcast.tensors])
        try:
            yield from _Round(self, work, broadcast, Dealt(work, items)).results()
        finally:
            if any(worker.item for worker in self._workers):
                self.close()

    def close(self) -> None:
        """End the workers; none is left when this returns."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            _reap(worker)
        self._workers = []

    def send(self, worker: _Worker, item: Item, work: PhaseWork, broadcast: Packed) -> None:
        """Give a worker its next item; one that died meanwhile is noticed when its pipe is read."""
        states = {client: pack_state(work.states[client]) for client in item.clients if client in work.states}
        phase, options = self._phases.index(work.phase), work.broadcast.options
        worker.item = item
        try:
            worker.pipe.send(Job(phase, work.order, broadcast, options, states, work.seed, item.clients, item.fold))
        except (BrokenPipeError, ConnectionResetError):
            return

    def replace(self, worker: _Worker) -> None:
        """Put a fresh worker in a dead one's place."""
        worker.process.kill()
        _reap(worker)
        self._workers[self._workers.index(worker)] = self._fork()

    @property
    def workers(self) -> tuple[_Worker, ...]:
        """The workers as they are now."""
        return tuple(self._workers)

    def _ready_for(self, work: PhaseWork) -> None:
        needed = room(work.broadcast.tensors)
        new = work.phase not in self._phases
        if new:
            self._phases.append(work.phase)
        if new or needed > self._room or not self._workers:
            self.start(max(needed, self._room))

    def _fork(self) -> _Worker:
        here, there = multiprocessing.Pipe()
        results = Arena(2 * self._room)
        inherited = (here, *(worker.pipe for worker in self._workers))
        setup = Setup(self._kernel, self._source, tuple(self._phases), self._broadcast, results)
        process = multiprocessing.get_context("fork").Process(
            target=serve, args=(setup, there, inherited), name="foedus-worker", daemon=True
        )
        with undisturbed():
            process.start()
        there.close()
        return _Worker(process, here, results)


class _Round:
    """One phase on its way."""

    def __init__(self, executor: WorkersExecutor, work: PhaseWork, broadcast: Packed, dealt: Dealt) -> None:
        self._executor, self._work, self._broadcast, self._dealt = executor, work, broadcast, dealt

    def results(self) -> Iterator[Numbered]:
        """Blocks by their number, as they are finished."""
        while self._dealt.left:
            for worker in self._executor.workers:
                if worker.item is None and self._dealt.waiting:
                    self._executor.send(worker, self._dealt.waiting.popleft(), self._work, self._broadcast)
            busy = {worker.pipe: worker for worker in self._executor.workers if worker.item}
            for pipe in wait(list(busy)):
                yield from self._hear(next(worker for known, worker in busy.items() if known is pipe))

    def _hear(self, worker: _Worker) -> Iterator[Numbered]:
        item = worker.item
        assert item is not None
        try:
            reply: Reply = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._executor.replace(worker)
            yield from self._dealt.lost(item)
            return
        worker.item = None
        yield from self._dealt.back(item, unpack(reply, worker.results.copied))


def _reap(worker: _Worker) -> None:
    worker.process.join(timeout=5)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    worker.process.close()
    worker.pipe.close()
