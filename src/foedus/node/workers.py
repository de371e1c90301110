"""Work processes as the agent sees them: started, asked, watched for progress, and ended with all they have started.

Each works for one run. A process that ends, stalls or talks nonsense is a failed ask, never a dead agent. Torch is
imported there, not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import foedus
from foedus.domain.errors import IntegrityError
from foedus.node.frames import HEAD, Done, Failed, Order, Ready, Stepped, length, pack, parse
from foedus.node.reasons import failure

LOG_LIMIT = 1 << 20
"""Bytes of what a work process prints that are kept; the rest is dropped."""

HANDED_ON = ("PATH", "HOME", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT")
HANDED_ON_PREFIXES = ("ATEN_", "DNNL_", "KMP_", "LANG", "LC_", "MKL_", "ONEDNN_", "OPENBLAS_", "PYTHON", "TORCH_")


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a work process may see of the environment: how to run and compute, and no secrets. One thread.

    >>> clean_environment({"PATH": "/bin", "API_KEY": "secret"})
    {'PATH': '/bin', 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    """
    kept = {k: v for k, v in environment.items() if k in HANDED_ON or k.startswith(HANDED_ON_PREFIXES)}
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _environment() -> dict[str, str]:
    # The process starts in another folder: where modules are found must not depend on it.
    paths = [str(Path(foedus.__file__).parents[1]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**clean_environment(os.environ), "PYTHONPATH": os.pathsep.join(str(Path(p).absolute()) for p in paths)}


@dataclass(frozen=True)
class Limits:
    """``idle``: seconds that work may take no step. ``keep``: how long an idle process lives. ``workers``: how many."""

    idle: float
    keep: float
    workers: int


@dataclass
class Worker:
    """One work process, and the run that it works for (none yet: it is kept warm)."""

    process: asyncio.subprocess.Process
    printing: asyncio.Task[None]
    run: str = ""
    used: float = field(default_factory=time.monotonic)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.returncode is None

    async def ask(self, order: Order, idle: float, stepped: Callable[[], None]) -> Done | Failed:
        """Have an order done. A process that fails to answer rightly is ended."""
        self.used = time.monotonic()
        try:
            return await self._ask(order, idle, stepped)
        except TimeoutError:
            return failure("work_stalled", f"no step for {idle:g} s")
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.end()
            return failure("work_crashed", f"the work process ended with {self.process.returncode}")
        except IntegrityError as error:
            return failure("work_crashed", str(error))
        finally:
            self.used = time.monotonic()

    async def _ask(self, order: Order, idle: float, stepped: Callable[[], None]) -> Done | Failed:
        commands, replies = self.process.stdin, self.process.stdout
        assert commands is not None and replies is not None
        answered = False
        try:
            commands.write(pack(order))
            async with asyncio.timeout(idle):
                await commands.drain()
            while True:
                async with asyncio.timeout(idle):
                    head = await replies.readexactly(HEAD.size)
                    frame = parse(await replies.readexactly(length(head)))
                if isinstance(frame, Done | Failed):
                    answered = True
                    return frame
                if isinstance(frame, Ready | Stepped):
                    stepped()
        finally:
            if not answered:
                await self.end()

    async def end(self) -> None:
        """Kill the process and its whole group, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self.process.wait()
        assert self.process.stdout is not None
        last = [self.printing, asyncio.create_task(_drained(self.process.stdout))]
        await asyncio.wait(last, timeout=1.0)
        for task in last:
            task.cancel()


class Pool:
    """The work processes of a node: at most one per run, a few in all, and one that waits for the next run."""

    def __init__(self, home: Path, limits: Limits) -> None:
        self._home, self._limits = home, limits
        self._workers: dict[str, Worker] = {}
        self._spare: asyncio.Task[Worker] | None = None
        self._log = home / "logs" / "work.log"
        for folder in (self._log.parent, home / "work"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def warm(self) -> None:
        """Start a process that imports torch now, for a run that may come; foreign code waits for its order."""
        if self._spare is None:
            self._spare = asyncio.create_task(self._start())

    async def ask(self, order: Order, stepped: Callable[[], None]) -> Done | Failed:
        """Have an order done by the process of its run."""
        worker = await self._of(order.assignment.run)
        try:
            return await worker.ask(order, self._limits.idle, stepped)
        finally:
            if not worker.alive:
                self._workers.pop(order.assignment.run, None)

    async def drop(self, run: str) -> None:
        """End the process of a run that asks no more."""
        if worker := self._workers.pop(run, None):
            await worker.end()

    async def tidy(self) -> None:
        """End processes that have had nothing to do for long, the spare one too."""
        before = time.monotonic() - self._limits.keep
        for run in [run for run, worker in self._workers.items() if worker.used < before]:
            await self.drop(run)
        if (spare := self._spare) is not None and spare.done():
            if spare.exception() is not None:
                self._spare = None
            elif spare.result().used < before:
                await (await self._take()).end()

    async def close(self) -> None:
        """End every process."""
        for run in list(self._workers):
            await self.drop(run)
        if self._spare is not None:
            with contextlib.suppress(OSError):
                await (await self._take()).end()

    async def _of(self, run: str) -> Worker:
        worker = self._workers.get(run)
        if worker is not None and worker.alive:
            return worker
        while len(self._workers) >= self._limits.workers:
            await self.drop(min(self._workers, key=lambda name: self._workers[name].used))
        worker = await self._take()
        if not worker.alive:
            await worker.end()
            worker = await self._start()
        worker.run = run
        self._workers[run] = worker
        return worker

    async def _take(self) -> Worker:
        self.warm()
        spare, self._spare = self._spare, None
        assert spare is not None
        return await spare

    async def _start(self) -> Worker:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "foedus.node.child"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._home / "work",
            env=_environment(),
            start_new_session=True,
        )
        assert process.stderr is not None
        return Worker(process, asyncio.create_task(_keep_prints(process.stderr, self._log)))


async def _drained(stream: asyncio.StreamReader) -> None:
    """Read what is left: a pipe is closed at its end, and one that is not read does not come to it."""
    with contextlib.suppress(OSError):
        while await stream.read(1 << 16):
            pass


async def _keep_prints(stream: asyncio.StreamReader, path: Path) -> None:
    room = LOG_LIMIT
    if path.is_file() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    while chunk := await stream.read(1 << 16):
        if room > 0:
            with path.open("ab") as file:
                file.write(chunk[:room])
            room -= len(chunk)
