"""Work processes as the agent sees them: started, asked, watched for progress, and ended with all they have started.

Each works for one run and one dataset, in a sandbox of its own. A process that ends, stalls or talks nonsense is a
failed ask, never a dead agent: what it says is checked as a stranger's. Torch is imported there, not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from foedus.domain.errors import FoedusError, IntegrityError
from foedus.node.frames import HEAD, Done, Failed, Order, Ready, Stepped, length, pack, parse
from foedus.node.launch import BEFORE, bounds, launch
from foedus.node.outgoing import checked, heard
from foedus.node.pipes import NOBODY, Hearing, Prints, drained, keep_prints, received
from foedus.node.policy import Policy, check_sandbox
from foedus.node.reasons import failure, failure_of
from foedus.node.staging import Stage
from foedus.sandbox.groups import Group
from foedus.sandbox.weigh import exceeds

GRACE = 10.0
"""Seconds for the pipes of a killed process to end; they do when the last of what it started is gone."""

WEIGHED = 0.5
"""Seconds between two looks at the memory of a process and of all that it has started."""

NOTICED = 2.0
"""Seconds in which a process that has closed its pipe is known to have ended."""

KILLED = (-signal.SIGKILL, -signal.SIGXCPU, 128 + signal.SIGKILL, 128 + signal.SIGXCPU)
"""Ends that the kernel makes, for want of memory or at the end of its processor time; a sandbox adds 128."""

UPDATE = "update"
"""The file of what the work made, as a duty looks for it."""


@dataclass(frozen=True)
class Patience:
    """``idle``: seconds that work may take no step. ``keep``: how long an idle process lives. ``workers``: how many.

    ``largest``: bytes that an update, a state or a model may have; a held process's have no more than its memory.
    """

    idle: float
    keep: float
    workers: int
    largest: int = 32 << 30


@dataclass
class Worker:
    """One work process, and where what it is given lies.

    ``policy``: what it was begun under; ``overfull``: it had too much memory with all it started.
    """

    process: asyncio.subprocess.Process
    printing: asyncio.Task[None]
    stage: Stage
    policy: Policy
    used: float = field(default_factory=time.monotonic)
    heard: Callable[[Stepped], None] = lambda frame: None
    prints: Prints = field(default_factory=Prints)
    ending: asyncio.Task[None] | None = None
    watching: asyncio.Task[None] | None = None
    overfull: bool = False
    bound: Group | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.returncode is None

    async def ask(self, order: Order, into: Path, patience: Patience, stepped: Callable[[], None]) -> Done | Failed:
        """Have an order done, and what it made written to ``into``; what it says is checked before it is believed."""
        said = await self._said(order, into, patience, stepped)
        return await asyncio.to_thread(checked, order, said, into / UPDATE)

    async def _said(self, order: Order, into: Path, patience: Patience, stepped: Callable[[], None]) -> Done | Failed:
        """What it says. A process that fails to answer rightly is ended."""
        self.used, answer = time.monotonic(), None
        try:
            answer = await self._ask(self.stage.set(order), into, patience, stepped)
            return answer or failure("update_too_large", f"over {patience.largest} bytes")
        except TimeoutError:
            return failure("work_stalled", f"no step for {patience.idle:g} s")
        except (asyncio.IncompleteReadError, ConnectionError):
            return await self._ended()
        except IntegrityError as error:
            return failure("work_crashed", str(error))
        except OSError as error:  # what it made could not be written here
            return failure_of(error)
        finally:
            self.used = time.monotonic()
            if answer is None or (isinstance(answer, Failed) and answer.code == "gpu_lost"):
                await self.end()

    async def _ask(
        self, order: Order, into: Path, patience: Patience, stepped: Callable[[], None]
    ) -> Done | Failed | None:
        """What it answers; none where what it made is too large."""
        commands, replies, idle = self.process.stdin, self.process.stdout, patience.idle
        assert commands is not None and replies is not None
        commands.write(pack(order))
        async with asyncio.timeout(idle):
            await commands.drain()
        while True:
            async with asyncio.timeout(idle):
                head = await replies.readexactly(HEAD.size)
                frame = parse(await replies.readexactly(length(head)))
            if isinstance(frame, Done):
                models = [(model.when, model.size) for model in frame.models]
                if max(frame.update, frame.state, *(size for _, size in models)) > patience.largest:
                    return None
                await received(replies, into / UPDATE, frame.update, idle, stepped)
                for name, size in (("state", frame.state), *models):
                    await received(replies, into / name, size, idle, stepped)
            if isinstance(frame, Done | Failed):
                return frame
            if isinstance(frame, Stepped):
                self.heard(heard(order, frame))
                await asyncio.sleep(0)  # frames that have come already would leave nobody else a turn
            if isinstance(frame, Ready | Stepped):
                stepped()

    async def _ended(self) -> Failed:
        """How the process ended, which has closed its pipe."""
        until = time.monotonic() + NOTICED
        while self.alive and time.monotonic() < until:
            await asyncio.sleep(NOTICED / 100)
        ended = self.process.returncode
        code = "work_killed" if ended in KILLED else "work_crashed"
        full = self.overfull or (self.bound is not None and self.bound.overfull())
        return failure("out_of_memory" if full else code, f"the work process ended with {ended}")

    async def watch(self, memory: int) -> None:
        """Kill the process as soon as it has too much memory together with all that it has started."""
        while self.alive:
            await asyncio.sleep(WEIGHED)
            if await asyncio.to_thread(exceeds, self.process.pid, memory):
                self.overfull = True
                await self.end()

    async def end(self) -> None:
        """Kill the process with all that it started, and wait for it, also where who waits is told to go."""
        if self.ending is None:
            self.ending = asyncio.create_task(self._end())
        await asyncio.shield(self.ending)

    async def _end(self) -> None:
        if self.watching is not None:
            self.watching.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdin is not None:
            self.process.stdin.close()
        assert self.process.stdout is not None
        last = [self.printing, asyncio.create_task(drained(self.process.stdout))]
        await self.process.wait()
        await asyncio.wait(last, timeout=GRACE)
        for task in last:
            task.cancel()
        if self.bound is not None:
            await asyncio.to_thread(self.bound.end)
        self.stage.clear()


class Pool:
    """The work processes of a node: at most one per run, and a few in all. Each has its plan's ``policy`` of now."""

    def __init__(self, home: Path, patience: Patience, policy: Callable[[str], Policy]) -> None:
        self._home, self._patience, self._policy = home, patience, policy
        self._workers: dict[str, asyncio.Task[Worker]] = {}
        self._log = home / "logs" / "work.log"
        for folder in (self._log.parent, home / "work"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def ask(
        self,
        order: Order,
        into: Path,
        stepped: Callable[[], None],
        hearing: Hearing = NOBODY,
    ) -> Done | Failed:
        """Have an order done by the process of its run, and what it made written to ``into``.

        ``stepped`` is called when steps were taken or bytes moved, ``hearing`` is told how they go.

        Raises:
            StorageError: ``sandbox_unavailable``.
        """
        run = order.assignment.run
        worker = await self._of(run, order)
        worker.heard, worker.prints.hear = hearing.stepped, hearing.printed
        patience, memory = self._patience, worker.policy.resources.memory
        if worker.stage.inside:  # what it sends it has in memory first, and what is larger would only fill a disk
            patience = replace(patience, largest=min(patience.largest, memory))
        return await worker.ask(order, into, patience, stepped)

    async def drop(self, run: str) -> None:
        """End the process of a run that asks no more; it is known until it has ended."""
        if run in self._workers:
            with contextlib.suppress(FoedusError, OSError):
                await (await asyncio.shield(self._workers[run])).end()
            self._workers.pop(run, None)

    async def tidy(self) -> None:
        """End processes that have had nothing to do for long."""
        before = time.monotonic() - self._patience.keep
        for run, begun in list(self._workers.items()):
            if begun.done() and (begun.exception() is not None or begun.result().used < before):
                await self.drop(run)

    async def close(self) -> None:
        """End every process."""
        for run in list(self._workers):
            await self.drop(run)

    async def _of(self, run: str, order: Order) -> Worker:
        dataset, policy = Path(order.dataset), self._policy(order.assignment.plan)
        if run in self._workers:
            worker = await self._begun(run)
            if worker.alive and (worker.stage.dataset, worker.policy) == (dataset, policy):
                return worker
            await self.drop(run)
        while len(self._workers) >= self._patience.workers:
            await self.drop(next(iter(self._workers)))
        self._workers[run] = asyncio.create_task(self._start(dataset, policy))
        return await self._begun(run)

    async def _begun(self, run: str) -> Worker:
        """The process of a run, when it has started; the run used last comes last."""
        begun = self._workers.pop(run)
        self._workers[run] = begun
        try:
            return await asyncio.shield(begun)  # who waits may go, and the process stays for the next one
        finally:
            if begun.done() and (begun.cancelled() or begun.exception()):
                self._workers.pop(run, None)

    async def _start(self, dataset: Path, policy: Policy) -> Worker:
        check_sandbox(policy, self._home)
        held = policy.sandbox == "bubblewrap"
        stage = Stage(self._home / "work" / secrets.token_hex(8), dataset, held)
        bound = bounds(stage, policy.resources)
        try:
            process = await launch(stage, policy.resources, bound)
        except BaseException:
            if bound is not None:
                bound.end()
            stage.clear()
            raise
        assert process.stderr is not None
        prints = Prints()
        printing = asyncio.create_task(keep_prints(process.stderr, self._log, prints))
        worker = Worker(process, printing, stage, policy, prints=prints, bound=bound)
        if held:
            worker.watching = asyncio.create_task(worker.watch(BEFORE + policy.resources.memory))
        return worker
