"""What nodes do with assignments: poll, renew, contribute, fail. An assignment belongs to the node that owns the data.

``open`` → ``leased`` (the token grows by one) → ``done`` or ``failed``; a lease that has expired may be taken again,
and then the old token is worth nothing. What was recorded once is answered the same when it is told again. What nobody
waits for any more is ``closed``, and ``late`` once it came nevertheless: that is counted, and nothing of it is kept.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from foedus.coordinator.bells import of_run
from foedus.coordinator.blob_rows import size_of_own, use_own
from foedus.coordinator.checks import check_metrics, check_update, check_weights
from foedus.coordinator.drawing import hear, listening
from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.inline import own_content, store_content
from foedus.coordinator.live import Live
from foedus.coordinator.measures import CONTRIBUTIONS
from foedus.coordinator.orders import PHASE_OF, TAKES, forget_state
from foedus.domain.errors import ConflictError, ContributionError, IntegrityError, NotFoundError, RoundClosedError
from foedus.domain.lifecycle import ACTIVE
from foedus.domain.round import Receipt, Schema
from foedus.domain.run import parse_spec
from foedus.domain.timing import BufferedTable, TimedTable
from foedus.domain.tree import State
from foedus.store.tables import assignments, phases, runs
from foedus.store.unit_of_work import notice
from foedus.strategies.strategy import Phase, round_of
from foedus.wire.messages import Accepted, Contribute, Fail, Renew, Renewed

SAID_AGAIN = {"token", "seconds", "timings", "content"}
"""Fields in which a contribution told twice may differ: it was leased again, or computed again, or uploaded."""

AssignmentRow = Row[Any]
STATE_MISSING = "client_state_missing"
"""A node's failure that says: it has lost the client's state, or is ahead of it since a backup was restored."""

_HELD = (
    select(assignments, phases.c.opened_at, phases.c.status.label("phase_status"))
    .add_columns(runs.c.status.label("run_status"), runs.c.data, runs.c.spec)
    .join(phases, PHASE_OF)
    .join(runs, runs.c.id == assignments.c.run_id)
    .where(assignments.c.id == bindparam("ask"), assignments.c.node_id == bindparam("node"))
)


@dataclass(frozen=True)
class Held:
    """An assignment, and whether its phase still takes contributions: it may be ``late``, or its run be at rest."""

    row: AssignmentRow
    open: bool
    late: bool


def renew(live: Live, node: NodeIdentity, assignment: str, command: Renew) -> Renewed:
    """Prolong a lease.

    Raises:
        NotFoundError: ``assignment_unknown``. ConflictError: ``lease_lost``.
        RoundClosedError: ``round_closed``, ``update_stale``.
    """
    with live.store.transaction("renew", scope=node.id) as tx:
        held = _find(tx, node, assignment)
        _check_lease(held, command.token)
        _check_fresh(held)
        until = {"lease_until": time.time() + live.lease}
        seen_so = (
            assignments.c.id == assignment,
            assignments.c.status == "leased",
            assignments.c.token == command.token,
        )
        tx.execute(update(assignments).where(*seen_so).values(**until))
    return Renewed(lease=live.lease)


def contribute(live: Live, node: NodeIdentity, assignment: str, command: Contribute) -> Accepted:
    """Take a contribution, if it is what the phase wants. One that is not counts as a failure of its client.

    Raises:
        NotFoundError: ``assignment_unknown``. ConflictError: ``lease_lost``, ``already_answered``, ``blob_missing``.
        RoundClosedError: ``round_closed``, ``update_stale``.
        ContributionError, IntegrityError: with the code of what is wrong with it.
    """
    held = _begin(live, node, assignment, command)
    if isinstance(held, Accepted):
        return held
    phase = _phase_of(live, held)
    size = _size(live, node, command)
    try:
        _check_fresh(held)
        _check(live, command, phase.schema)
    except (IntegrityError, RoundClosedError) as error:
        refused = Receipt(held.row.client, {}, {}, failure=f"{error.code}: {error}")
        _record(live, node, held, refused, command)
        raise
    receipt = Receipt(
        held.row.client,
        command.weights,
        command.metrics,
        digest=command.update or "",
        state=command.state or "",
        seconds=command.seconds,
        size=size,
        loading=command.loading or "",
        timings=command.timings,
    )
    return _record(live, node, held, receipt, command)


def fail(live: Live, node: NodeIdentity, assignment: str, command: Fail) -> Accepted:
    """Record that a client's work failed.

    Raises:
        NotFoundError: ``assignment_unknown``. ConflictError: ``lease_lost``, ``already_answered``.
        RoundClosedError: ``round_closed``.
    """
    held = _begin(live, node, assignment, command)
    if isinstance(held, Accepted):
        return held
    receipt = Receipt(held.row.client, {}, {}, failure=f"{command.code}: {command.reason}")
    return _record(live, node, held, receipt, command)


def withdraw(tx: Connection, node: str, reason: str) -> None:
    """What a node was asked and has not answered counts as failed, so that nobody waits for it."""
    undone = (assignments.c.node_id == node, assignments.c.status.in_(("open", "leased")), TAKES)
    for row in tx.execute(select(assignments, phases.c.opened_at).join(phases, PHASE_OF).where(*undone)).all():
        receipt = Receipt(row.client, {}, {}, failure=reason)
        values = {"status": "failed", "lease_until": None, "receipt": asdict(receipt)}
        _answer(tx, row, values)


def _begin(live: Live, node: NodeIdentity, assignment: str, command: Contribute | Fail) -> Held | Accepted:
    """What a node holds and answers, or the reply of before. What comes late is counted, once."""
    with live.store.statements() as each:
        held = _find(each, node, assignment)
    if (reply := _said_before(held.row, command)) is not None:
        return reply
    if held.late and held.row.token == command.token and held.row.status != "late":
        with live.store.transaction("late") as tx:
            here = (assignments.c.id == assignment, assignments.c.status.in_(("open", "leased", "closed")))
            tx.execute(update(assignments).where(*here).values(status="late", lease_until=None))
    _check_lease(held, command.token)
    return held


def _size(live: Live, node: NodeIdentity, command: Contribute) -> int:
    """The size in bytes of the update, which is stored from here on."""
    if command.update is None:
        return 0
    if command.content is not None:
        return store_content(live, command)
    with live.store.statements() as each:
        return size_of_own(each, command.update, node.actor)


def _phase_of(live: Live, held: Held) -> Phase:
    """The phase in which an assignment was made, as the strategy has it."""
    found = live.phase_at(held.row.run_id, held.row.round, held.row.phase)
    if found is None:
        raise _closed()
    return found


def _answer(tx: Connection, row: AssignmentRow, values: dict[str, Any]) -> None:
    """Record an answer, and have the phase hear it that listens now."""
    hear(tx, row, listening(tx, row), max(0.0, time.time() - row.opened_at), values)


def _record(live: Live, node: NodeIdentity, before: Held, receipt: Receipt, command: Contribute | Fail) -> Accepted:
    """Receipt and event as one; the phase or the lease may have been lost meanwhile."""
    assignment = before.row.id
    with live.store.transaction("fail" if receipt.failure else "contribute", scope=before.row.run_id) as tx:
        held = _find(tx, node, assignment)
        if (reply := _said_before(held.row, command)) is not None:
            return reply
        _check_lease(held, command.token)
        values = {
            "status": "failed" if receipt.failure else "done",
            "lease_until": None,
            "update": receipt.digest or None,
            "contribution": _comparable(command),
            "receipt": asdict(receipt),
        }
        if isinstance(command, Fail) and command.code == STATE_MISSING:
            forget_state(tx, held.row.run_id, held.row.client)
        if receipt.digest and isinstance(command, Contribute) and command.content is not None:
            own_content(tx, live, node, command)
        elif receipt.digest:
            use_own(tx, receipt.digest, node.actor)
        _answer(tx, held.row, values)
        notice(tx, of_run(held.row.run_id))
    if not receipt.failure or isinstance(command, Fail):
        CONTRIBUTIONS.labels("failed" if receipt.failure else "counted").inc()
    return Accepted(assignment=assignment, outcome="failed" if receipt.failure else "counted")


def _find(tx: Connection, node: NodeIdentity, assignment: str) -> Held:
    row = tx.execute(_HELD, {"ask": assignment, "node": node.id}).one_or_none()
    if row is None:
        raise NotFoundError("assignment_unknown", "There is no such assignment of this node.", "", "Poll for work.")
    late = row.phase_status != "open" and not row.carries
    return Held(row, open=not late and row.run_status in ACTIVE, late=late)


def _said_before(row: AssignmentRow, command: Contribute | Fail) -> Accepted | None:
    """The reply of before, where this was told before.

    Raises:
        ConflictError: ``already_answered`` where something else was told.
    """
    if row.status not in ("done", "failed"):
        return None
    if row.contribution == _comparable(command):
        CONTRIBUTIONS.labels("duplicate").inc()
        return Accepted(assignment=row.id, outcome="counted" if row.status == "done" else "failed")
    raise ConflictError("already_answered", "This assignment was answered before, and otherwise.", "", "Poll for work.")


def _comparable(command: Contribute | Fail) -> dict[str, Any]:
    return command.model_dump(mode="json", exclude=SAID_AGAIN)


def _check_lease(held: Held, token: int) -> None:
    if not held.open:
        raise _closed()
    if held.row.status != "leased" or held.row.token != token:
        raise ConflictError(
            "lease_lost", "The lease is not held any more.", "It expired, or the node began anew.", "Poll for work."
        )


def _check_fresh(held: Held) -> None:
    """Refuse work on a model that is older than the schedule counts.

    Raises:
        RoundClosedError: ``update_stale``.
    """
    table = parse_spec(held.row.spec).schedule
    if not isinstance(table, BufferedTable | TimedTable) or table.staleness.maximum is None:
        return
    behind = round_of(State({}, held.row.data)) - held.row.round
    if behind > table.staleness.maximum:
        raise RoundClosedError(
            "update_stale",
            f"The work began with a model that is {behind} versions old; at most {table.staleness.maximum} count.",
            "Others were faster.",
            "Poll for work.",
        )


def _check(live: Live, command: Contribute, schema: Schema) -> None:
    check_weights(command.weights, schema)
    check_metrics(command.metrics, schema)
    if bool(schema.parts) != (command.update is not None):
        code = "update_missing" if schema.parts else "update_unexpected"
        raise ContributionError(code, "The phase wants " + ("an update." if schema.parts else "no update."))
    if command.update is not None:
        check_update(live.artifacts.path(command.update), schema)


def _closed() -> RoundClosedError:
    return RoundClosedError(
        "round_closed",
        "The phase was closed before this came.",
        "Others were enough, or time was up.",
        "Poll for work.",
    )
