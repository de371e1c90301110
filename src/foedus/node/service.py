"""The node as a service: one process per home, which lives until it is told to end, in one way or another.

To *drain* is to finish the work in hand, take no more, and end. Signals and wishes (:mod:`foedus.node.wishes`) ask for
it. Free of torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import foedus
from foedus.domain.errors import ConflictError, UsageError
from foedus.node.agent import TICK, Agent
from foedus.node.certificate import trust_of
from foedus.node.policy import check_sandbox, read_policy
from foedus.node.settings import NodeSettings, read_settings
from foedus.node.transport import Link
from foedus.node.vault import Vault
from foedus.node.wishes import CONTROL, LOCK, STATUS, Control, State, Status, Wish, Working, write
from foedus.wire.signing import Signer

SAID_EVERY = 1.0
"""Seconds between two times that the process says of itself what has changed."""

PATIENCE = 1.0
"""Seconds that a start waits for the home: who only asks whether a node runs holds it for a moment."""

_log = logging.getLogger(__name__)


def run_agent(home: Path, stop: threading.Event | None = None, settings: NodeSettings | None = None) -> bool:
    """Be the node in ``home`` until SIGTERM, SIGINT, ``stop`` or a wish; then end the work processes and return.

    SIGTERM drains for at most ``settings.drain_seconds``; SIGINT, or a second SIGTERM, ends at once what is in hand,
    which the coordinator then asks again. Returns whether the owner wished for a restart.

    Raises:
        NotFoundError: ``node_missing``. UsageError: ``node_not_joined``. ConflictError: ``node_running``.
        AccessError: where the coordinator does not know the node, or has revoked it.
        ConfigError: where the policy is malformed. StorageError: ``sandbox_unavailable``, ``audit_unwritable``.
    """
    with Vault(home) as vault, _alone(home):
        policy = read_policy(home)
        check_sandbox(policy, home)
        if policy.sandbox == "off":
            _log.warning("the owner's policy lets plans run without a sandbox")
            vault.record("sandbox_off", "policy", "plans see and reach what this node's user does")
        (home / CONTROL).unlink(missing_ok=True)
        return asyncio.run(_live(vault, _Ending(home, stop or threading.Event()), settings or read_settings()))


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    end = time.monotonic() + PATIENCE
    with (home / LOCK).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > end:
                    raise ConflictError("node_running", f"The node in {home} is running already.") from error
                time.sleep(TICK / 5)
        yield


class _Ending:
    """How the process is told to end: by signals, by a wish, by the event of who runs it in a thread."""

    def __init__(self, home: Path, stop: threading.Event) -> None:
        self._home, self._stop, self._terms = home, stop, 0

    def listen(self) -> None:
        """Hear signals, where this is the thread that can."""
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, self._term)
            loop.add_signal_handler(signal.SIGINT, self._stop.set)

    async def wished(self) -> Wish:
        """The first wish."""
        while (found := self.newest()) is None:
            await asyncio.sleep(TICK / 2)
        return found

    def newest(self) -> Wish | None:
        """What is wished by now that was not heard before, if anything is; signals are heard always."""
        if self._stop.is_set() or self._terms > 1:
            return "stop"
        return self._read() or ("drain" if self._terms else None)

    @property
    def by_signal(self) -> bool:
        """Whether a signal asked to drain: who sends one waits only for so long."""
        return self._terms > 0

    def _term(self) -> None:
        self._terms += 1

    def _read(self) -> Wish | None:
        path = self._home / CONTROL
        if not path.exists():
            return None
        try:
            return Control.model_validate_json(path.read_bytes()).wish
        except (OSError, ValidationError):
            _log.warning("a wish in %s cannot be read, and is left out", CONTROL)
            return None
        finally:
            path.unlink(missing_ok=True)


async def _live(vault: Vault, ending: _Ending, settings: NodeSettings) -> bool:
    identity = vault.identity()
    if identity.node is None or identity.coordinator is None:
        raise UsageError("node_not_joined", "This node has joined no coordinator.", "", "Use `foedus node join`.")
    ending.listen()
    async with Link(identity.coordinator, Signer(identity.node, vault.private_key), trust=trust_of(vault.home)) as link:
        agent, teller = Agent(vault, link, settings), _Teller(vault, link)
        loops = [
            agent.converse(),
            agent.watch(),
            agent.renew(),
            agent.labour(),
            agent.monitor.send(),
            agent.schemas.tell(),
            agent.housekeep(),
            teller.tell(agent),
        ]
        conversing, *others = tasks = [asyncio.create_task(loop) for loop in loops]
        _log.info("node %s (%s) of %s is up", identity.name, identity.node, identity.coordinator)
        try:
            wish = await _first(ending.wished(), tasks)
            if wish != "stop":
                teller.state = "draining"
                _log.info("node %s takes no more work, and finishes what it has", identity.name)
                conversing.cancel()
                wish = await _first(_until_idle(agent.held, ending, wish, settings.drain_seconds), others)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await agent.pool.close()
            teller.say("stopped", agent)
    _log.info("node %s has stopped", identity.name)
    return wish == "restart"


async def _first(awaited: Coroutine[Any, Any, Wish], tasks: Sequence[asyncio.Task[None]]) -> Wish:
    """What is awaited, unless one of the loops ends before, which only an error does."""
    wished = asyncio.create_task(awaited)
    try:
        done, _ = await asyncio.wait([wished, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {wished}:
            task.result()
        return wished.result()
    finally:
        wished.cancel()


async def _until_idle(held: Sized, ending: _Ending, wish: Wish, seconds: float) -> Wish:
    """Until nothing is in hand, a stop is wished, or a signal was heard so many seconds ago; what was wished last."""
    until, clock = math.inf, asyncio.get_running_loop().time
    while held and wish != "stop" and clock() < until:
        wish = ending.newest() or wish
        if ending.by_signal:
            until = min(until, clock() + seconds)
        await asyncio.sleep(TICK / 5)
    return wish


class _Teller:
    """Writes down what the process does, for who asks."""

    def __init__(self, vault: Vault, link: Link) -> None:
        self._home, self._link, self._since = vault.home, link, time.time()
        self._sandbox = read_policy(vault.home).sandbox
        self._said: Status | None = None
        self.state: State = "running"

    async def tell(self, agent: Agent) -> None:
        """Say what has changed, for ever."""
        while True:
            self.say(self.state, agent)
            await asyncio.sleep(SAID_EVERY)

    def say(self, state: State, agent: Agent) -> None:
        """Write it, unless it was said; a full disk keeps no node from its work."""
        working = () if state == "stopped" else tuple(Working.model_validate(each) for each in agent.in_hand())
        now = Status(
            pid=os.getpid(),
            version=foedus.__version__,
            state=state,
            since=self._since,
            contact=self._link.answered,
            sandbox=self._sandbox,
            working=working,
        )
        if now != self._said:
            with contextlib.suppress(OSError):
                write(self._home / STATUS, now)
                self._said = now
