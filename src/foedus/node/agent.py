"""The node's agent: it greets the coordinator, polls it for work, and does one assignment after another, for ever.

It only ever dials out. It imports no torch and no plan; that is for its work processes (:mod:`foedus.node.child`). How
it is started and ended is in :mod:`foedus.node.service`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Set

from foedus.domain.errors import AccessError, ConfigError, ConflictError, FoedusError, NotFoundError, StorageError
from foedus.node import acts
from foedus.node.approval import policy_for, settle
from foedus.node.blobs import Cache
from foedus.node.checkpoint import States
from foedus.node.duty import Held, Tools, perform
from foedus.node.facts import hello, tell_refused
from foedus.node.grants import awaited_signers
from foedus.node.keys import other_key
from foedus.node.monitor import Monitor
from foedus.node.noticing import forget_runs
from foedus.node.offers import forget_plans, is_known, keep_plan
from foedus.node.policy import Policy, largest_batch, read_policy
from foedus.node.saved import SavedModels, saved_folder
from foedus.node.schemas import Schemas
from foedus.node.settings import NodeSettings
from foedus.node.snapshots import forget as forget_snapshots
from foedus.node.transport import Link, passing
from foedus.node.vault import Vault
from foedus.node.witness import observe
from foedus.node.workers import Patience, Pool
from foedus.wire.audit import parse_head
from foedus.wire.messages import Assignment, PlanOffer, Poll, Renew, Renewed, Welcome, Work
from foedus.wire.signing import Signer

TICK = 0.25
"""Seconds between two looks at the vault, the leases and the wish to stop."""

DAY = 86_400.0
TIDY = 30.0
"""Seconds between two looks at idle work processes."""

UNDECIDED = 100
"""Plans that wait for the owner's decision at most; more are not kept until some are decided."""

HELD = 100
"""Assignments in hand at most."""

_log = logging.getLogger(__name__)


class Agent:
    """A node's life in one process. Its loops share this state in one thread; what must last is in the vault."""

    def __init__(self, vault: Vault, link: Link, settings: NodeSettings) -> None:
        self._vault, self._link, self._settings = vault, link, settings
        self._boot, self._wait, self._welcome = secrets.token_hex(16), settings.poll_wait, False
        self._told: object = None
        self._greeting = asyncio.Lock()
        self.held: dict[str, Held] = {}
        self._queue: asyncio.Queue[Held] = asyncio.Queue()
        self._ended: set[str] = set()
        self._moves = 0
        self._refused: set[bytes] = set()
        self._unwelcome: frozenset[str] = frozenset()
        shutil.rmtree(vault.home / "work", ignore_errors=True)
        patience = Patience(settings.idle_limit, settings.keep_idle, settings.workers, settings.blob_bytes)
        self.pool = Pool(vault.home, patience, lambda plan: policy_for(vault, plan))
        cache = Cache(vault.home / "cache", settings.cache_bytes, settings.blob_bytes)
        cache.clean(())
        states = States(vault.home / "states")
        self.monitor, self.schemas = Monitor(link), Schemas(vault, link)
        saved = SavedModels(saved_folder(vault.home, settings.saved))
        self._tools = Tools(vault, link, cache, states, saved, self.pool, self.monitor, self._moved)
        self._forget()
        self._settled: Policy | None = None
        self._settle()

    def in_hand(self) -> list[dict[str, object]]:
        """The assignments that this node has, and since when it works on each, in Unix seconds."""
        now, clock = time.time(), time.monotonic()
        return [
            {
                "run": held.assignment.run,
                "round": held.assignment.round,
                "phase": held.assignment.phase,
                "client": held.assignment.client,
                "since": None if held.began is None else round(now - clock + held.began, 1),
            }
            for held in self.held.values()
        ]

    async def housekeep(self) -> None:
        """Let go of what no run has asked for in long, once a day: a node lives for months."""
        while True:
            await asyncio.sleep(DAY)
            await asyncio.to_thread(self._forget)

    def _forget(self) -> None:
        seconds = self._settings.state_days * DAY
        self._tools.states.forget(seconds)
        self._tools.saved.forget(seconds)
        forget_snapshots(self._vault.home, seconds)
        forget_runs(self._vault, seconds)
        forget_plans(self._vault, seconds)

    async def converse(self) -> None:
        """Greet, then poll, for ever; after a broken poll greet anew.

        A reply that was lost on its way may have leased something to this node. Where nothing is in hand, a new boot
        frees it at once.

        Raises:
            AccessError: where the coordinator does not know the node.
        """
        failures = 0
        while True:
            asked = time.monotonic()
            try:
                if not self._welcome:
                    await self._greet()
                poll, telling = Poll(boot=self._boot, wait=self._wait, held=tuple(self.held)), self.schemas.in_hand()
                news = await self._take(await self._link.post("/node/poll", poll, Work, self._wait), telling)
                failures = 0
            except FoedusError as error:
                if self._refuses(error):
                    raise
                failures += 1
                self._welcome = False
                if not self.held:
                    self._boot = secrets.token_hex(16)
                await self._link.pause(error, failures)
                continue
            if not news and self._settings.poll_wait and time.monotonic() - asked < TICK:
                await asyncio.sleep(2 * TICK)

    async def watch(self) -> None:
        """Tell the coordinator when the owner has changed something, also while a poll is open."""
        with self._vault.changes() as version:
            known, compared = version(), False  # what changed just before may have missed the first greeting
            while True:
                await asyncio.sleep(TICK)
                if (found := version()) != known:
                    self._refused.clear()
                    self._rekey()
                elif compared:
                    continue
                if not self._welcome:
                    continue
                try:
                    if self._vault.told() != self._told:
                        await self._greet()
                    known, compared = found, True
                except FoedusError as error:
                    if self._refuses(error):
                        raise
                    await self._link.pause(error, 1)

    async def renew(self) -> None:
        """Keep the leases of what is in hand while there is progress; let go of what is not awaited any more."""
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            for held in [held for held in self.held.values() if held.renew_at <= now and not held.sending]:
                if held.seen != self._moves:
                    await self._renew(held)

    async def labour(self) -> None:
        """Do one assignment after another."""
        while True:
            try:
                async with asyncio.timeout(TIDY):
                    held = await self._queue.get()
            except TimeoutError:
                await self.pool.tidy()
                continue
            if self.held.get(held.assignment.id) is not held:
                continue
            held.task = asyncio.create_task(perform(self._tools, held))
            try:
                await asyncio.wait([held.task])
            finally:
                held.task.cancel()
                await asyncio.gather(held.task, return_exceptions=True)
                self.held.pop(held.assignment.id, None)
            if not held.task.cancelled() and (error := held.task.exception()) is not None:
                _log.error("%s could not be finished", held, exc_info=error)

    def _refuses(self, error: FoedusError) -> bool:
        """Whether the coordinator refuses this node for good: every key of its, as there are two in a rotation."""
        if not isinstance(error, AccessError) or passing(error):
            return False
        self._refused.add(self._link.signer.private)
        return not self._rekey()

    def _rekey(self) -> bool:
        private = other_key(self._vault.home, self._refused)
        if private is not None:
            self._link.signer = Signer(self._link.signer.key_id, private)
        return private is not None

    def _moved(self) -> None:
        self._moves += 1

    async def _greet(self) -> None:
        async with self._greeting:
            told, batch = self._vault.told(), largest_batch(self._vault.home)
            command = hello(self._boot, told, self._tools.speeds, batch, awaited_signers(self._vault))
            welcome = await self._link.post("/node/hello", command, Welcome)
            self._unwelcome = tell_refused(self._vault, welcome.refused, self._unwelcome)
            self._told, self._welcome = told, True
            self._wait = max(0.0, min(self._settings.poll_wait, welcome.wait))

    def _settle(self) -> bool:
        """Decide what the policy decides of plans, where it is another one than it was; whether it is."""
        if other := (policy := read_policy(self._vault.home)) != self._settled:
            settle(self._vault, policy)
            self._settled = policy
        return other

    async def _take(self, work: Work, telling: Set[tuple[str, str]]) -> bool:
        """Take what a poll brought, before which these schemas were in hand; whether there was anything new."""
        changed = False
        with contextlib.suppress(ConfigError, StorageError):  # what is asked for is refused then, and that says why
            changed = self._settle()
        ended = set(work.ended) - self._ended
        for run in ended:
            for held in [held for held in self.held.values() if held.assignment.run == run]:
                self._lose(held)
            await self.pool.drop(run)
        self._ended = set(work.ended)
        for held in [self.held[ask] for ask in work.stop if ask in self.held]:
            _log.info("%s is not awaited any more", held)
            self._lose(held)
        try:
            await acts.requested(self._vault, [each for each in work.assignments if each.id not in self.held])
        except FoedusError as error:  # none of it begins without a line either, and the coordinator is told then
            _log.error("%s", error)
        for digest, content in work.blobs.items():
            self._tools.cache.keep(digest, content)
        for assignment in work.assignments:
            self._hold(assignment)
        schemas = self.schemas.take(work.schemas, telling)
        if changed:  # the coordinator may ask again for what the policy refused
            await self._greet()
        offers = [await self._consider(offer) for offer in work.plans]
        if work.audit is not None:
            await observe(self._vault, self._link, parse_head(work.audit), self._settings.witness_every)
        await asyncio.sleep(0.0 if self.held else work.seconds)
        return bool(ended or work.stop or work.assignments or schemas or any(offers))

    def _hold(self, assignment: Assignment) -> None:
        renew_at = time.monotonic() + assignment.lease / 4
        self._ended.discard(assignment.run)
        if (held := self.held.get(assignment.id)) is not None:
            held.assignment, held.renew_at = assignment, renew_at
            return
        if len(self.held) >= HELD:
            return
        self.held[assignment.id] = new = Held(assignment, renew_at)
        self._queue.put_nowait(new)

    async def _consider(self, offer: PlanOffer) -> bool:
        """Keep a new plan for the owner to read, and say that the decision is pending; whether it could be kept."""
        if new := not is_known(self._vault, offer):
            if self._vault.undecided() >= UNDECIDED:
                _log.debug("plan %s waits: %d others wait for a decision", offer.digest[:12], UNDECIDED)
                return False
            try:
                await keep_plan(self._tools, offer)
            except (FoedusError, OSError) as error:
                _log.warning("plan %s could not be fetched: %s", offer.digest[:12], error)
                return False
        await self._greet()
        return new

    async def _renew(self, held: Held) -> None:
        ask, seen = held.assignment, self._moves
        try:
            renew = Renew(token=ask.token)
            reply = await self._link.post(f"/node/assignments/{ask.id}/renew", renew, Renewed)
            held.seen, held.renew_at = seen, time.monotonic() + reply.lease / 4
        except FoedusError as error:
            held.renew_at = time.monotonic() + 4 * TICK
            gone = isinstance(error, ConflictError | NotFoundError) and held.assignment.token == ask.token
            if gone and not held.sending and self.held.get(ask.id) is held:
                _log.info("%s is not awaited any more: %s", held, error.code)
                self._lose(held)

    def _lose(self, held: Held) -> None:
        self.held.pop(held.assignment.id, None)
        if held.task is not None:
            held.task.cancel()
