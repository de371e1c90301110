"""What a poll brings a node: assignments, leased to it as they are told; plans to decide on; runs that have ended."""

from __future__ import annotations

import random
import time
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, and_, func, not_, null, or_, select, update

from foedus.coordinator import aligning
from foedus.coordinator.greeting import note_clash
from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.inline import small_blobs
from foedus.coordinator.live import Live
from foedus.coordinator.measures import ASSIGNMENT_SECONDS
from foedus.coordinator.nodes import identify, seen
from foedus.coordinator.orders import PHASE_OF, TAKES
from foedus.coordinator.pace import LONGEST, come_back, leave
from foedus.coordinator.run_rows import RUN, find_run, spec_of
from foedus.domain.errors import ConflictError
from foedus.domain.lifecycle import AT_REST, RunStatus
from foedus.domain.run import CHECKS
from foedus.store.audit import head
from foedus.store.tables import approvals, assignments, client_states, datasets, nodes, phases, runs
from foedus.wire.audit import show_head
from foedus.wire.messages import Assignment, PlanOffer, Poll, Sends, Work
from foedus.wire.plan_signature import SIGNERS, PlanSignature

AT_ONCE = 4
"""Assignments that one poll brings at most."""

PLANS_AT_ONCE, ENDED_AT_ONCE = 20, 1000
"""Plans, and ended runs, that one poll brings at most."""

SEEN = 15.0
"""Seconds for which a node counts as seen without being noted again."""

TOLD = 600.0
"""Seconds for which a run that has ended is told to its nodes."""


def begin(live: Live, node: NodeIdentity, boot: str) -> None:
    """Note that a node is there, and that it is the process that said hello last.

    Raises:
        ConflictError: ``hello_needed``.
    """
    with live.store.reading() as tx:
        columns = (nodes.c.boot, nodes.c.boot_before, nodes.c.last_seen)
        row = tx.execute(select(*columns).where(nodes.c.id == node.id)).one()
    if boot and boot == row.boot_before != row.boot:
        note_clash(live, node)
    if boot != row.boot:
        raise _hello_needed()
    if row.last_seen is None or time.time() - row.last_seen > SEEN:
        with live.store.transaction("seen", scope=node.id) as tx:
            seen(tx, node)


def look(live: Live, node: NodeIdentity, poll: Poll, since: float) -> Work | None:
    """What there is for a node now; None where it may wait on. ``since`` is when its poll began.

    It is told to stop what it holds and nobody waits for any more.

    Raises:
        ConflictError: ``hello_needed`` where the node began anew meanwhile.
    """
    now, boot = time.time(), poll.boot
    with live.store.reading() as tx:
        _check_boot(tx, node, boot)
        stop = _unawaited(tx, node.id, poll.held)
        waiting = _takeable(tx, node.id, poll, now)
        plans, ended, audit = _offers(tx, node.id), _ended(tx, node.id, now - TOLD), show_head(head(tx))
        schemas = aligning.asks(tx, node.id)
    if not waiting and not plans and not schemas and not stop and not any(updated >= since for _, updated in ended):
        return None
    leased = _lease(live, node, poll, now) if waiting else ()
    told = tuple(run for run, _ in ended)
    brought = Work(assignments=leased, plans=plans, schemas=schemas, ended=told, stop=stop)
    return brought.model_copy(update={"blobs": small_blobs(live, leased), "audit": audit})


def _unawaited(tx: Connection, node: str, held: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the assignments that a node holds nobody waits for; what was answered is not among them."""
    if not held:
        return ()
    query = select(assignments.c.id).join(phases, PHASE_OF).join(runs, runs.c.id == assignments.c.run_id)
    awaited = and_(assignments.c.status.in_(("open", "leased")), TAKES, runs.c.status == RunStatus.RUNNING.value)
    here = (assignments.c.node_id == node, assignments.c.id.in_(held))
    known = set(tx.execute(query.where(*here, or_(awaited, assignments.c.status.in_(("done", "failed"))))).scalars())
    return tuple(ask for ask in held if ask not in known)


def _check_boot(tx: Connection, node: NodeIdentity, boot: str) -> None:
    """A poll that outlived its process must take nothing: nobody is there any more to do it. Nor a revoked node."""
    identify(tx, node.id)
    if tx.execute(select(nodes.c.boot).where(nodes.c.id == node.id)).scalar_one() != boot:
        raise _hello_needed()


def _hello_needed() -> ConflictError:
    return ConflictError("hello_needed", "The node has not said hello since it began.", "", "Say hello first.")


def nothing(live: Live, node: NodeIdentity, poll: Poll) -> Work:
    """The reply to a poll that waited in vain: when to come back, by the size of the population.

    A coordinator that is about to end has its nodes connect anew, to another one or to the next process.
    """
    now, chance = time.time(), random.Random()
    with live.store.reading() as tx:
        ended = tuple(run for run, _ in _ended(tx, node.id, now - TOLD))
        there = (nodes.c.status == "active", nodes.c.last_seen > now - LONGEST)
        count = tx.execute(select(func.count()).select_from(nodes).where(*there)).scalar_one()
        audit = show_head(head(tx))
    if live.bells.closed:
        return Work(ended=ended, then="disconnect", seconds=leave(chance), audit=audit)
    seconds = come_back(count, poll.wait, chance)
    return Work(ended=ended, then="come_back" if seconds else "poll", seconds=seconds, audit=audit)


def _takeable(tx: Connection, node: str, poll: Poll, now: float) -> list[Row[Any]]:
    """Open assignments, expired leases, and leases of this boot that the node does not know of: their telling was lost.

    A node of before does not say what it holds; it is told a lost lease again when that has expired.
    """
    ways = [assignments.c.status == "open", and_(assignments.c.status == "leased", assignments.c.lease_until < now)]
    if "held" in poll.model_fields_set:
        unheard = (assignments.c.boot == poll.boot, assignments.c.id.not_in(poll.held))
        ways.append(and_(assignments.c.status == "leased", *unheard))
    query = (
        select(assignments, phases.c.broadcast, phases.c.clients)
        .join(phases, PHASE_OF)
        .join(runs, runs.c.id == assignments.c.run_id)
        .where(assignments.c.node_id == node, or_(*ways))
        .where(TAKES, runs.c.status == RunStatus.RUNNING.value)
        .order_by(assignments.c.run_id, assignments.c.client)
    )
    return list(tx.execute(query.limit(AT_ONCE)).all())


def _lease(live: Live, node: NodeIdentity, poll: Poll, now: float) -> tuple[Assignment, ...]:
    """Lease what there is, each row only as it was seen: another scope may be closing its phase at this moment."""
    told, waited = [], list[float]()
    with live.store.transaction("lease", scope=node.id) as tx:
        _check_boot(tx, node, poll.boot)
        for row in _takeable(tx, node.id, poll, now):
            again = row.status == "leased" and row.lease_until >= now
            token = row.token if again else row.token + 1
            values = {"status": "leased", "token": token, "boot": poll.boot, "lease_until": now + live.lease}
            seen_so = (assignments.c.id == row.id, assignments.c.status == row.status, assignments.c.token == row.token)
            if not tx.execute(update(assignments).where(*seen_so).values(**values)).rowcount:
                continue
            told.append(_assignment(tx, live, row, token))
            waited += [now - row.asked_at] if token == 1 and row.asked_at is not None else []
    for seconds in waited:
        ASSIGNMENT_SECONDS.observe(seconds)
    return tuple(ask.model_copy(update={"sends": _sends(live, ask)}) for ask in told)


def _sends(live: Live, ask: Assignment) -> Sends | None:
    """What the phase takes, which the node checks before it sends anything; none where the phase is over."""
    if (phase := live.phase_at(ask.run, ask.round, ask.phase)) is None:
        return None
    return Sends(parts=tuple(phase.schema.parts), weights=phase.schema.weights, metrics=phase.schema.metrics)


def _assignment(tx: Connection, live: Live, row: Row[Any], token: int) -> Assignment:
    run = find_run(tx, row.run_id)
    spec = spec_of(run)
    here = (client_states.c.run_id == run.id, client_states.c.client == row.client)
    return Assignment(
        id=row.id,
        token=token,
        lease=live.lease,
        run=run.id,
        round=row.round,
        phase=row.phase,
        attempt=row.attempt,
        client=row.client,
        seed=spec.seed,
        strategy=spec.strategy.name,
        options=spec.strategy.options,
        schedule=spec.schedule.model_dump(mode="json"),
        test_ratio=spec.test.ratio,
        validation_ratio=spec.test.validation,
        checkpointers=tuple(each.model_dump(mode="json", exclude_none=True) for each in spec.checkpointer),
        checks={name: True for name in CHECKS if getattr(spec.test, name)},
        plan=run.plan,
        plan_blob=run.plan_blob,
        broadcast=row.broadcast,
        cohort=len(row.clients) or None,
        inline=live.inline,
        alignment=run.alignment,
        state=tx.execute(select(client_states.c.digest).where(*here)).scalar(),
    )


def _offers(tx: Connection, node: str) -> tuple[PlanOffer, ...]:
    """Plans that runs want on this node's data, of which it has said nothing; or that wait for a signature it lacks."""
    mine, waiting = (
        approvals.c.node_id == node,
        and_(approvals.c.state == "pending", approvals.c.signers.is_not(null())),
    )
    decided = select(approvals.c.digest).where(mine, not_(waiting))
    active = (RunStatus.WAITING.value, RunStatus.RUNNING.value)
    wanted = RUN.where(runs.c.status.in_(active), runs.c.plan.not_in(decided)).order_by(runs.c.created_at)
    rows = tx.execute(wanted).all()
    if not rows:
        return ()
    waits = {row.digest: row.signers for row in tx.execute(select(approvals).where(mine, waiting))}
    signed = _signed(tx, {row.plan for row in rows})
    tags = [set(found) for found in tx.execute(select(datasets.c.tags).where(datasets.c.node_id == node)).scalars()]
    offers = {
        row.plan: PlanOffer(
            run=row.id,
            digest=row.plan,
            blob=row.plan_blob,
            name=row.name[:200],
            author=row.author[:200],
            signed=signed.get(row.plan),
        )
        for row in rows
        if _lacks(waits.get(row.plan), signed.get(row.plan))
        if any(set(spec_of(row).data.tags) <= have for have in tags)
    }
    return tuple(offers.values())[:PLANS_AT_ONCE]


def _signed(tx: Connection, plans: Collection[str]) -> dict[str, PlanSignature]:
    """The newest signature of each plan that has one, whichever run brought it."""
    query = select(runs.c.plan, runs.c.plan_signature).where(runs.c.plan.in_(plans)).order_by(runs.c.created_at)
    return {
        row.plan: PlanSignature.model_validate(row.plan_signature)
        for row in tx.execute(query)
        if row.plan_signature is not None
    }


def _lacks(has: Collection[str] | None, signed: PlanSignature | None) -> bool:
    """Whether a node wants the offer that ``has`` these signatures of a plan; none: it has said nothing of it."""
    return has is None or (signed is not None and signed.signer not in has and len(has) < SIGNERS)


def _ended(tx: Connection, node: str, after: float) -> list[tuple[str, float]]:
    """Runs that have ended since ``after`` and in which this node was asked, with when they did."""
    query = (
        select(runs.c.id, runs.c.updated_at)
        .join(assignments, assignments.c.run_id == runs.c.id)
        .where(assignments.c.node_id == node, runs.c.status.in_(sorted(AT_REST)), runs.c.updated_at >= after)
        .distinct()
        .order_by(runs.c.updated_at.desc())
        .limit(ENDED_AT_ONCE)
    )
    return [(row.id, row.updated_at) for row in tx.execute(query)]
