"""One assignment on a node, from its lease to the coordinator's answer: checked, fetched, worked on, sent.

The owner's decision is looked up in the vault before every assignment, whatever the coordinator says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from foedus.data.align import ALIGNMENT_LIMIT
from foedus.domain.errors import ConflictError, FoedusError, NotFoundError, StorageError
from foedus.domain.spans import span
from foedus.domain.training import check_arguments
from foedus.node import acts
from foedus.node.approval import check_approval
from foedus.node.blobs import Cache, upload
from foedus.node.checkpoint import States
from foedus.node.facts import speed_of
from foedus.node.files import sha256_of
from foedus.node.frames import Done, Failed, Order
from foedus.node.gpus import gpus
from foedus.node.leaving import check_leaving
from foedus.node.loadings import KeptPlan, loading_of
from foedus.node.monitor import Monitor
from foedus.node.noticing import as_begun
from foedus.node.owner import read_plan
from foedus.node.policy import Request, check, read_policy, refusal
from foedus.node.reasons import REFUSALS, failure, failure_of
from foedus.node.saved import SavedModels
from foedus.node.scope import Use
from foedus.node.snapshots import place_of
from foedus.node.transport import Link
from foedus.node.vault import Dataset, Vault
from foedus.node.workers import UPDATE, Pool
from foedus.wire.messages import Accepted, Assignment, Contribute, Fail

CHECK = 1.0
"""Seconds between two looks, while a plan works, at whether it still may."""

_log = logging.getLogger(__name__)


@dataclass
class Held:
    """An assignment that this node holds. A later lease of the same one brings a newer token.

    ``sending``: its work is done, and only the coordinator's answer is awaited. ``began``: when it was found to be
    allowed and its work began, on the monotonic clock.
    """

    assignment: Assignment
    renew_at: float
    seen: int = 0
    sending: bool = False
    began: float | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        ask = self.assignment
        return f"{ask.run} round {ask.round} {ask.phase} of {ask.client}"


@dataclass(frozen=True)
class Tools:
    """What a duty is done with. ``moved`` is called when bytes moved or steps were taken.

    ``speeds``: examples per second of each client's last training.
    """

    vault: Vault
    link: Link
    cache: Cache
    states: States
    saved: SavedModels
    pool: Pool
    monitor: Monitor
    moved: Callable[[], None]
    speeds: dict[str, float] = field(default_factory=dict)


async def perform(tools: Tools, held: Held) -> None:
    """Do an assignment and send what it came to; waits for the coordinator as long as it takes."""
    ask = held.assignment
    with span("assignment", run=ask.run, round=ask.round, phase=ask.phase, client=ask.client, assignment=ask.id):
        await _perform(tools, held)


async def _perform(tools: Tools, held: Held) -> None:
    try:
        await _do(tools, held)
    finally:
        await asyncio.shield(_ended(tools, held, "withdrawn"))


async def _do(tools: Tools, held: Held) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=tools.vault.home / "work") as folder:
            said = await _work(tools, held, Path(folder))
    except Exception as error:
        said = failure_of(error)
    held.sending = True
    try:
        if isinstance(said, Contribute):
            await _contribute(tools, held, said)
        else:
            await _fail(tools, held, said)
    except (ConflictError, NotFoundError) as error:
        _log.info("%s is not awaited any more: %s", held, error.code)
    except FoedusError as error:
        _log.warning("what %s came to was refused: %s", held, error)
        with contextlib.suppress(FoedusError):
            await _fail(tools, held, failure_of(error))


async def _work(tools: Tools, held: Held, folder: Path) -> Contribute | Failed:
    ask = held.assignment
    check_arguments(ask.options)
    dataset = next((each for each in tools.vault.datasets() if each.client == ask.client), None)
    _check_allowed(tools, ask, None)  # how many examples there are now is not known yet
    if dataset is None:
        return failure("dataset_missing")
    if not dataset.path.exists():
        return failure("dataset_unreadable", str(dataset.path))
    state = tools.states.current(ask.run, ask.client, ask.state) if ask.state else None
    if ask.state and state is None:
        return failure("client_state_missing", ask.state)
    known = await as_begun(tools.vault, ask.run, dataset, tools.moved)
    _check_allowed(tools, ask, known)
    await acts.started(tools.vault, ask, read_policy(tools.vault.home).sandbox)
    held.began = time.monotonic()
    loading = loading_of(tools.vault, known)
    order = await _order(tools, ask, known, state, loading)
    hearing = tools.monitor.begin(ask.id, read_policy(tools.vault.home).leave)
    asked = tools.pool.ask(order, folder, tools.moved, hearing)
    done = await _while_allowed(asked, lambda: _check_still_allowed(tools, held, known))
    if not isinstance(done, Done):
        return done
    check_leaving(read_policy(tools.vault.home).leave, folder / UPDATE if done.update else None, done.metrics)
    made = await _store(tools, ask, folder, done)
    return made if loading is None else made.model_copy(update={"loading": loading.reference})


def _check_allowed(tools: Tools, ask: Assignment, dataset: Dataset | None) -> None:
    """What the owner decided of the plan, and then the policy; both are read anew each time."""
    policy = read_policy(tools.vault.home)
    use = Use(ask.client, ask.strategy, ask.round, policy.sandbox != "off")
    check_approval(tools.vault, policy, ask.plan, use)
    examples, models = None if dataset is None else dataset.examples, len(ask.checkpointers)
    asked = Request(ask.strategy, ask.options, ask.round, examples, ask.cohort, gpus(), models)
    check(policy, asked, datetime.now().astimezone())


def _check_still_allowed(tools: Tools, held: Held, dataset: Dataset) -> None:
    _check_allowed(tools, held.assignment, dataset)
    limit = read_policy(tools.vault.home).resources.seconds
    if held.began is not None and time.monotonic() - held.began > limit:
        raise refusal("resources.seconds", f"It works on an ask for {limit} s at most.")


async def _while_allowed(asked: Awaitable[Done | Failed], check_again: Callable[[], None]) -> Done | Failed:
    """What the work comes to; it is ended when ``check_again`` refuses it."""
    work = asyncio.ensure_future(asked)
    try:
        while not (await asyncio.wait({work}, timeout=CHECK))[0]:
            check_again()
        check_again()
        return work.result()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def _order(
    tools: Tools, ask: Assignment, dataset: Dataset, state: Path | None, loading: KeptPlan | None
) -> Order:
    read_plan(tools.vault, ask.plan)
    os.utime(tools.vault.bundle_path(ask.plan))  # it is of use
    place, reading = await asyncio.to_thread(place_of, tools.vault.home, ask.run, dataset, tools.moved)
    needed = {*ask.broadcast.values(), *([ask.alignment] if ask.alignment else [])}
    parts = {
        part: str(await tools.cache.fetch(tools.link, digest, tools.moved, needed))
        for part, digest in ask.broadcast.items()
    }
    alignment = None
    if ask.alignment is not None:
        alignment = str(await tools.cache.fetch(tools.link, ask.alignment, tools.moved, needed, ALIGNMENT_LIMIT))
    return Order(
        assignment=ask,
        bundle=str(tools.vault.bundle_path(ask.plan)),
        parts=parts,
        dataset=str(place),
        reading=reading,
        kept=tools.saved.scores(ask),
        state=None if state is None else str(state),
        loading=None if loading is None else loading.content,
        alignment=alignment,
    )


async def _store(tools: Tools, ask: Assignment, folder: Path, done: Done) -> Contribute:
    """Keep the new state and bring the update up, both before the contribution is sent."""
    state = _saved(tools, ask, folder)
    await asyncio.to_thread(_keep_models, tools, ask, folder, done)
    update, content = await _brought(tools, ask, folder / UPDATE) if done.update else (None, None)
    speed = speed_of(done.weights.get("examples", 0.0), done.seconds) if done.update else None
    if speed is not None:
        tools.speeds[ask.client] = speed
    return Contribute(
        token=ask.token,
        update=update,
        weights=done.weights,
        metrics=done.metrics,
        state=state,
        seconds=done.seconds,
        timings=done.timings,
        content=content,
    )


async def _brought(tools: Tools, ask: Assignment, file: Path) -> tuple[str, bytes | None]:
    """The update's SHA-256; and its bytes where they go with the contribution, which is where it is not uploaded."""
    if file.stat().st_size <= ask.inline:
        return sha256_of(file), file.read_bytes()
    return await upload(tools.link, file, tools.moved), None


def _saved(tools: Tools, ask: Assignment, folder: Path) -> str:
    """The digest of the client's new state, which is on the disk now.

    Raises:
        StorageError: ``state_not_saved``.
    """
    try:
        return tools.states.keep(ask.run, ask.client, folder / "state")
    except (OSError, StorageError) as error:
        raise StorageError("state_not_saved", "The client's new state could not be kept.", str(error)) from None


def _keep_models(tools: Tools, ask: Assignment, folder: Path, done: Done) -> None:
    """Keep what checkpointers chose; the contribution does not depend on it."""
    try:
        tools.saved.keep(ask, done, folder)
    except (FoedusError, OSError) as error:
        _log.warning("a model of %s could not be kept: %s", ask.client, error)


async def _contribute(tools: Tools, held: Held, message: Contribute) -> None:
    path = f"/node/assignments/{held.assignment.id}/contribute"
    await tools.link.retried(lambda: tools.link.post(path, _newest(held, message), Accepted))
    await _ended(tools, held, "contributed")
    _log.info("%s is done", held)


async def _fail(tools: Tools, held: Held, said: Failed) -> None:
    _log.warning("%s failed: %s: %s%s", held, said.code, said.reason, said.detail and f"\n{said.detail}")
    path = f"/node/assignments/{held.assignment.id}/fail"
    message = Fail(token=held.assignment.token, code=said.code, reason=said.reason)
    await tools.link.retried(lambda: tools.link.post(path, _newest(held, message), Accepted))
    if said.code in REFUSALS:
        await _logged(acts.refused(tools.vault, held.assignment, said.code, said.reason))
    await _ended(tools, held, "failed", said.code)


async def _ended(tools: Tools, held: Held, outcome: acts.Outcome, code: str = "") -> None:
    """Have the end of work that began in the log, once."""
    began, held.began = held.began, None
    if began is not None:
        await _logged(acts.ended(tools.vault, held.assignment, outcome, began, code))


async def _logged(line: Awaitable[None]) -> None:
    """Have a line in the log on what is settled: one that cannot be written changes nothing of it."""
    try:
        await line
    except FoedusError as error:
        _log.error("%s", error)


def _newest(held: Held, message: Contribute | Fail) -> Contribute | Fail:
    """The message with the token of the newest lease, which a poll may have brought meanwhile."""
    return message.model_copy(update={"token": held.assignment.token})
