"""Work processes as the agent sees them: started, asked, watched for progress, and ended with all they have started.

Each works for one run and one dataset, in a sandbox of its own. A process that ends, stalls or talks nonsense is a
failed ask, never a dead agent: what it says is checked as a stranger's. Torch is imported there, not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import foedus
from foedus.domain.errors import FoedusError, IntegrityError
from foedus.node.frames import HEAD, Done, Failed, Order, Ready, Stepped, length, pack, parse
from foedus.node.outgoing import checked
from foedus.node.policy import Policy
from foedus.node.reasons import failure
from foedus.node.staging import Stage
from foedus.sandbox.bubblewrap import PRIVATE, Sandbox, command
from foedus.sandbox.limits import Limits

LOG_LIMIT = 1 << 20
"""Bytes of what a work process prints that are kept; the rest is dropped."""

GRACE = 10.0
"""Seconds for the pipes of a killed process to end; they do when the last of what it started is gone."""

CHUNK = 1 << 20
"""Bytes of an update that are read at once."""

UPDATE = "update"
"""The file of what the work made, as a duty looks for it."""

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
class Patience:
    """``idle``: seconds that work may take no step. ``keep``: how long an idle process lives. ``workers``: how many.

    ``largest``: bytes that an update or a state may have.
    """

    idle: float
    keep: float
    workers: int
    largest: int = 32 << 30


@dataclass
class Worker:
    """One work process, and where what it is given lies."""

    process: asyncio.subprocess.Process
    printing: asyncio.Task[None]
    stage: Stage
    used: float = field(default_factory=time.monotonic)
    ending: asyncio.Task[None] | None = None

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
        self.used = time.monotonic()
        try:
            return await self._ask(self.stage.set(order), into, patience, stepped)
        except TimeoutError:
            return failure("work_stalled", f"no step for {patience.idle:g} s")
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.end()
            return failure("work_crashed", f"the work process ended with {self.process.returncode}")
        except IntegrityError as error:
            return failure("work_crashed", str(error))
        finally:
            self.used = time.monotonic()

    async def _ask(self, order: Order, into: Path, patience: Patience, stepped: Callable[[], None]) -> Done | Failed:
        commands, replies, idle = self.process.stdin, self.process.stdout, patience.idle
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
                if isinstance(frame, Done):
                    if max(frame.update, frame.state) > patience.largest:
                        return failure("update_too_large", f"{max(frame.update, frame.state)} bytes")
                    await _received(replies, into / UPDATE, frame.update, idle, stepped)
                    await _received(replies, into / "state", frame.state, idle, stepped)
                if isinstance(frame, Done | Failed):
                    answered = True
                    return frame
                if isinstance(frame, Ready | Stepped):
                    stepped()
        finally:
            if not answered:
                await self.end()

    async def end(self) -> None:
        """Kill the process with all that it started, and wait for it, also where who waits is told to go."""
        if self.ending is None:
            self.ending = asyncio.create_task(self._end())
        await asyncio.shield(self.ending)

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdin is not None:
            self.process.stdin.close()
        assert self.process.stdout is not None
        last = [self.printing, asyncio.create_task(_drained(self.process.stdout))]
        await self.process.wait()
        await asyncio.wait(last, timeout=GRACE)
        for task in last:
            task.cancel()
        self.stage.clear()


class Pool:
    """The work processes of a node: at most one per run, and a few in all. ``policy`` is asked when one is started."""

    def __init__(self, home: Path, patience: Patience, policy: Callable[[], Policy]) -> None:
        self._home, self._patience, self._policy = home, patience, policy
        self._workers: dict[str, asyncio.Task[Worker]] = {}
        self._log = home / "logs" / "work.log"
        for folder in (self._log.parent, home / "work"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def ask(self, order: Order, into: Path, stepped: Callable[[], None]) -> Done | Failed:
        """Have an order done by the process of its run, and what it made written to ``into``.

        Raises:
            StorageError: ``sandbox_unavailable``.
        """
        run = order.assignment.run
        worker = await self._of(run, Path(order.dataset))
        return await worker.ask(order, into, self._patience, stepped)

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

    async def _of(self, run: str, dataset: Path) -> Worker:
        if run in self._workers:
            worker = await self._begun(run)
            if worker.alive and worker.stage.dataset == dataset:
                return worker
            await self.drop(run)
        while len(self._workers) >= self._patience.workers:
            await self.drop(next(iter(self._workers)))
        self._workers[run] = asyncio.create_task(self._start(dataset))
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

    async def _start(self, dataset: Path) -> Worker:
        policy = self._policy()
        held = policy.sandbox == "bubblewrap"
        stage = Stage(self._home / "work" / secrets.token_hex(8), dataset, held)
        process = await asyncio.create_subprocess_exec(
            *_command(stage, policy.resources.limits if held else None),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._home / "work",
            env={} if held else _environment(),
            start_new_session=True,
        )
        assert process.stderr is not None
        return Worker(process, asyncio.create_task(_keep_prints(process.stderr, self._log)), stage)


def _command(stage: Stage, limits: Limits | None) -> list[str]:
    """The work process: in a sandbox with these limits, or without one."""
    python = [sys.executable, "-P", "-m"]
    if limits is None:
        return [*python, "foedus.node.child"]
    inside = {"HOME": str(PRIVATE), "TMPDIR": str(PRIVATE), "PATH": "/usr/bin:/bin"}
    sandbox = Sandbox(stage.shown, limits, {**_environment(), **inside})
    return command(sandbox, [*python, "foedus.sandbox.enter", "foedus.node.child", json.dumps(asdict(limits))])


async def _received(
    replies: asyncio.StreamReader, path: Path, size: int, idle: float, moved: Callable[[], None]
) -> None:
    """The next ``size`` bytes, in a file; nothing where there are none."""
    if not size:
        return
    with path.open("wb") as file:
        while size:
            async with asyncio.timeout(idle):
                chunk = await replies.read(min(size, CHUNK))
            if not chunk:
                raise asyncio.IncompleteReadError(b"", size)
            await asyncio.to_thread(file.write, chunk)
            size -= len(chunk)
            moved()


async def _drained(stream: asyncio.StreamReader) -> None:
    """Read what is left, unless somebody else does: one that is not read to its end keeps its process from ending."""
    with contextlib.suppress(OSError, RuntimeError):
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
