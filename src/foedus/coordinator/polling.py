"""What a poll brings a node: assignments, leased to it as they are told; plans to decide on; runs that have ended."""

from __future__ import annotations

import random
import time
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, and_, bindparam, exists, or_, select, update

from foedus.coordinator import aligning
from foedus.coordinator.greeting import note_clash
from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.inline import small_blobs
from foedus.coordinator.keys import node_gone
from foedus.coordinator.live import Live
from foedus.coordinator.measures import ASSIGNMENT_SECONDS
from foedus.coordinator.offers import UNDECIDED, offers
from foedus.coordinator.orders import PHASE_OF, TAKES
from foedus.coordinator.pace import come_back, leave
from foedus.domain.errors import ConflictError
from foedus.domain.lifecycle import AT_REST, RunStatus
from foedus.domain.run import CHECKS, parse_spec
from foedus.store.audit import head
from foedus.store.tables import assignments, client_states, nodes, phases, runs
from foedus.wire.audit import show_head
from foedus.wire.messages import Assignment, PlanOffer, Poll, SchemaAsk, Sends, Work

AT_ONCE = 4
"""Assignments that one poll brings at most."""

ENDED_AT_ONCE = 1000
"""Ended runs that one poll brings at most."""

SEEN = 15.0
"""Seconds for which a node counts as seen without being noted again."""

TOLD = 600.0
"""Seconds for which a run that has ended is told to its nodes."""

_NODE: BindParameter[str] = bindparam("node")
_BOOT: BindParameter[str] = bindparam("boot")
_NOW: BindParameter[float] = bindparam("now")

_HELD: BindParameter[tuple[str, ...]] = bindparam("held", expanding=True)
_HERE = (nodes.c.id == _NODE, nodes.c.status == "active")
_GOES_ON = and_(TAKES, runs.c.status == RunStatus.RUNNING.value)

_AWAITED = (
    select(assignments.c.id)
    .select_from(assignments.join(phases, PHASE_OF).join(runs, runs.c.id == assignments.c.run_id))
    .where(assignments.c.node_id == _NODE, assignments.c.id.in_(_HELD))
    .where(
        or_(
            and_(assignments.c.status.in_(("open", "leased")), _GOES_ON),
            assignments.c.status.in_(("done", "failed")),
        )
    )
)
"""Those of the assignments that a node holds that somebody waits for, or that were answered."""

_UNHEARD = and_(
    *(assignments.c.status == "leased", bindparam("tells") == 1),
    *(assignments.c.boot == _BOOT, assignments.c.id.not_in(_HELD)),
)
_STATE = and_(client_states.c.run_id == assignments.c.run_id, client_states.c.client == assignments.c.client)
_TAKEABLE = (
    select(assignments, phases.c.broadcast, phases.c.clients, client_states.c.digest.label("state"))
    .add_columns(runs.c.spec, runs.c.plan, runs.c.plan_blob, runs.c.alignment)
    .select_from(assignments.join(phases, PHASE_OF).join(runs, runs.c.id == assignments.c.run_id))
    .outerjoin(client_states, _STATE)
    .where(*_HERE, nodes.c.boot == _BOOT, assignments.c.node_id == nodes.c.id, _GOES_ON)
    .where(
        or_(
            assignments.c.status == "open",
            and_(assignments.c.status == "leased", assignments.c.lease_until < _NOW),
            _UNHEARD,
        ),
    )
    .order_by(assignments.c.run_id, assignments.c.client)
    .limit(AT_ONCE)
)
"""Open assignments, expired leases, and leases of this boot that the node does not know of: their telling was lost.

A node of before does not say what it holds (``tells``); it is told a lost lease again when that has expired.
"""

_ENDED = (
    select(runs.c.id)
    .where(runs.c.status.in_(sorted(AT_REST)), runs.c.updated_at >= bindparam("since"))
    .where(exists().where(assignments.c.node_id == _NODE, assignments.c.run_id == runs.c.id))
    .order_by(runs.c.updated_at.desc())
    .limit(ENDED_AT_ONCE)
)
"""Runs that have ended ``since`` then and in which the node was asked, the last first."""

_PRESENT = select(nodes.c.boot, nodes.c.boot_before, nodes.c.last_seen).where(*_HERE)
_GLANCE = (
    select(nodes.c.boot)
    .where(*_HERE)
    .add_columns(_TAKEABLE.exists().label("work"), UNDECIDED.exists().label("plans"))
    .add_columns(aligning.UNALIGNED.exists().label("schemas"), _ENDED.exists().label("ended"))
)
"""What there may be for a node: all that most looks of most nodes ask, in one statement."""

_LEASE = (
    update(assignments)
    .where(assignments.c.id == bindparam("ask"), assignments.c.status == bindparam("was"))
    .where(assignments.c.token == bindparam("known"))
)
_SEEN = update(nodes).where(nodes.c.id == _NODE).values(last_seen=_NOW)


def begin(live: Live, node: NodeIdentity, boot: str) -> None:
    """Note that a node is there, and that it is the process that said hello last.

    Raises:
        AccessError: ``key_unknown``. ConflictError: ``hello_needed``.
    """
    now = time.time()
    with live.store.statements() as each:
        row = each.execute(_PRESENT, {"node": node.id}).one_or_none()
        if row is not None and row.boot == boot and (row.last_seen is None or now - row.last_seen > SEEN):
            each.execute(_SEEN, {"node": node.id, "now": now})
    if row is not None and boot and boot == row.boot_before != row.boot:
        note_clash(live, node)
    _check_boot(row, boot)


def look(live: Live, node: NodeIdentity, poll: Poll, since: float) -> Work | None:
    """What there is for a node now; None where it may wait on. ``since`` is when its poll began.

    It is told to stop what it holds and nobody waits for any more.

    Raises:
        AccessError: ``key_unknown`` where the node was revoked meanwhile.
        ConflictError: ``hello_needed`` where it began anew.
    """
    now = time.time()
    with live.store.statements() as each:
        row = each.execute(_GLANCE, {**_asked(node, poll, now), "since": since}).one_or_none()
        may = _check_boot(row, poll.boot)
        stop = _unawaited(each, node.id, poll.held) if poll.held else ()
    plans, schemas = _questions(live, node.id) if may.plans or may.schemas else ((), ())
    leased = _lease(live, node, poll, now) if may.work else ()
    if not (leased or plans or schemas or stop or may.ended):
        return None
    with live.store.statements() as each:
        told, audit = _ended(each, node.id, now), show_head(head(each))
    blobs = small_blobs(live, leased)
    return Work(assignments=leased, plans=plans, schemas=schemas, ended=told, stop=stop, blobs=blobs, audit=audit)


def _questions(live: Live, node: str) -> tuple[tuple[PlanOffer, ...], tuple[SchemaAsk, ...]]:
    """What a node's owner, or its policy, is to answer."""
    with live.store.reading() as tx:
        return offers(tx, node), aligning.asks(tx, node)


def _asked(node: NodeIdentity, poll: Poll, now: float) -> dict[str, object]:
    """The values of :data:`_TAKEABLE`."""
    tells = int("held" in poll.model_fields_set)
    return {"node": node.id, "boot": poll.boot, "now": now, "tells": tells, "held": poll.held}


def _unawaited(tx: Connection, node: str, held: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the assignments that a node holds nobody waits for; what was answered is not among them."""
    awaited = set(tx.execute(_AWAITED, {"node": node, "held": held}).scalars())
    return tuple(ask for ask in held if ask not in awaited)


def _check_boot(row: Any, boot: str) -> Any:
    """A poll that outlived its process must take nothing: nobody is there any more to do it. Nor a revoked node."""
    if row is None:
        raise node_gone()
    if row.boot != boot:
        raise _hello_needed()
    return row


def _hello_needed() -> ConflictError:
    return ConflictError("hello_needed", "The node has not said hello since it began.", "", "Say hello first.")


def nothing(live: Live, node: NodeIdentity, poll: Poll) -> Work:
    """The reply to a poll that waited in vain: when to come back, by the size of the population.

    A coordinator that is about to end has its nodes connect anew, to another one or to the next process.
    """
    now, chance = time.time(), random.Random()
    with live.store.statements() as each:
        ended = _ended(each, node.id, now)
        audit = show_head(head(each))
        count = live.population.count(each, now)
    if live.bells.closed:
        return Work(ended=ended, then="disconnect", seconds=leave(chance), audit=audit)
    seconds = come_back(count, poll.wait, chance)
    return Work(ended=ended, then="come_back" if seconds else "poll", seconds=seconds, audit=audit)


def _lease(live: Live, node: NodeIdentity, poll: Poll, now: float) -> tuple[Assignment, ...]:
    """Lease what there is, each row only as it was seen: another scope may be closing its phase at this moment."""
    told, waited = [], list[float]()
    with live.store.transaction("lease", scope=node.id) as tx:
        for row in tx.execute(_TAKEABLE, _asked(node, poll, now)).all():
            again = row.status == "leased" and row.lease_until >= now
            token = row.token if again else row.token + 1
            values = {"status": "leased", "token": token, "boot": poll.boot, "lease_until": now + live.lease}
            if not tx.execute(_LEASE, {"ask": row.id, "was": row.status, "known": row.token, **values}).rowcount:
                continue
            told.append(_assignment(live, row, token))
            waited += [now - row.asked_at] if token == 1 and row.asked_at is not None else []
    for seconds in waited:
        ASSIGNMENT_SECONDS.observe(seconds)
    return tuple(ask.model_copy(update={"sends": _sends(live, ask)}) for ask in told)


def _sends(live: Live, ask: Assignment) -> Sends | None:
    """What the phase takes, which the node checks before it sends anything; none where the phase is over."""
    if (phase := live.phase_at(ask.run, ask.round, ask.phase)) is None:
        return None
    return Sends(parts=tuple(phase.schema.parts), weights=phase.schema.weights, metrics=phase.schema.metrics)


def _assignment(live: Live, row: Row[Any], token: int) -> Assignment:
    spec = parse_spec(row.spec)
    return Assignment(
        id=row.id,
        token=token,
        lease=live.lease,
        run=row.run_id,
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
        plan=row.plan,
        plan_blob=row.plan_blob,
        broadcast=row.broadcast,
        cohort=len(row.clients) or None,
        inline=live.inline,
        alignment=row.alignment,
        state=row.state,
    )


def _ended(tx: Connection, node: str, now: float) -> tuple[str, ...]:
    """Runs that have ended not long ago and in which this node was asked."""
    return tuple(tx.execute(_ENDED, {"node": node, "since": now - TOLD}).scalars())
