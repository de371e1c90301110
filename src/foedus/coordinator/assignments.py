"""What nodes do with assignments: poll, renew, contribute, fail. An assignment belongs to the node that owns the data.

``open`` → ``leased`` (the token grows by one) → ``done`` or ``failed``; a lease that has expired may be taken again,
and then the old token is worth nothing. What was recorded once is answered the same when it is told again.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, select, update

from foedus.coordinator.bells import of_run
from foedus.coordinator.checks import check_metrics, check_update, check_weights
from foedus.coordinator.identities import NodeIdentity
from foedus.coordinator.live import Live, find_run
from foedus.domain.errors import ConflictError, ContributionError, IntegrityError, NotFoundError, RoundClosedError
from foedus.domain.lifecycle import RunStatus
from foedus.domain.round import Receipt, Schema
from foedus.store.tables import assignments, phase_events, phases, runs
from foedus.wire.messages import Accepted, Contribute, Fail, Renew, Renewed

PHASE_KEY = ("run_id", "round", "phase", "attempt")
PHASE_OF = and_(*(phases.c[key] == assignments.c[key] for key in PHASE_KEY))
SAID_AGAIN = {"token", "seconds"}
"""Fields in which a contribution told twice may differ: it was leased again, or computed again."""

AssignmentRow = Row[Any]


@dataclass(frozen=True)
class Held:
    """An assignment, and whether its phase still takes contributions."""

    row: AssignmentRow
    opened_at: float
    open: bool


def renew(live: Live, node: NodeIdentity, assignment: str, command: Renew) -> Renewed:
    """Prolong a lease.

    Raises:
        NotFoundError: ``assignment_unknown``. ConflictError: ``lease_lost``. RoundClosedError: ``round_closed``.
    """
    with live.store.transaction("renew") as tx:
        held = _find(tx, node, assignment)
        _check_lease(held, command.token)
        until = {"lease_until": time.time() + live.lease}
        tx.execute(update(assignments).where(assignments.c.id == assignment).values(**until))
    return Renewed(lease=live.lease)


def contribute(live: Live, node: NodeIdentity, assignment: str, command: Contribute) -> Accepted:
    """Take a contribution, if it is what the phase wants. One that is not counts as a failure of its client.

    Raises:
        NotFoundError: ``assignment_unknown``. ConflictError: ``lease_lost``, ``already_answered``, ``blob_missing``.
        RoundClosedError: ``round_closed``.
        ContributionError, IntegrityError: with the code of what is wrong with it.
    """
    with live.store.reading() as tx:
        held = _find(tx, node, assignment)
        if (reply := _said_before(held.row, command)) is not None:
            return reply
        _check_lease(held, command.token)
        run = find_run(tx, held.row.run_id)
    phase = live.phase(run)
    if phase is None or phase.name != held.row.phase:
        raise _closed()
    if command.update is not None and not live.artifacts.has(command.update):
        raise ConflictError("blob_missing", "The update's blob is not here.", "", "Upload it, then contribute again.")
    try:
        _check(live, command, phase.schema)
    except IntegrityError as error:
        refused = Receipt(held.row.client, {}, {}, failure=f"{error.code}: {error}")
        _record(live, node, assignment, refused, command)
        raise
    size = 0 if command.update is None else live.artifacts.size(command.update)
    receipt = Receipt(
        held.row.client,
        command.weights,
        command.metrics,
        digest=command.update or "",
        state=command.state or "",
        seconds=command.seconds,
        size=size,
    )
    return _record(live, node, assignment, receipt, command)


def fail(live: Live, node: NodeIdentity, assignment: str, command: Fail) -> Accepted:
    """Record that a client's work failed.

    Raises:
        NotFoundError: ``assignment_unknown``. ConflictError: ``lease_lost``, ``already_answered``.
        RoundClosedError: ``round_closed``.
    """
    with live.store.reading() as tx:
        held = _find(tx, node, assignment)
        if (reply := _said_before(held.row, command)) is not None:
            return reply
        _check_lease(held, command.token)
    receipt = Receipt(held.row.client, {}, {}, failure=f"{command.code}: {command.reason}")
    return _record(live, node, assignment, receipt, command)


def withdraw(tx: Connection, node: str, reason: str) -> None:
    """What a node was asked and has not answered counts as failed, so that nobody waits for it."""
    columns = (assignments.c.id, *(assignments.c[key] for key in PHASE_KEY), assignments.c.client, phases.c.opened_at)
    undone = (assignments.c.node_id == node, assignments.c.status.in_(("open", "leased")), phases.c.status == "open")
    for row in tx.execute(select(*columns).join(phases, PHASE_OF).where(*undone)).all():
        receipt = Receipt(row.client, {}, {}, failure=reason)
        values = {"status": "failed", "lease_until": None, "receipt": asdict(receipt)}
        tx.execute(update(assignments).where(assignments.c.id == row.id).values(**values))
        key = {name: row._mapping[name] for name in (*PHASE_KEY, "client")}
        at = max(0.0, time.time() - row.opened_at)
        tx.execute(insert(phase_events).values(**key, kind="failed", at=at))


def _record(live: Live, node: NodeIdentity, assignment: str, receipt: Receipt, command: Contribute | Fail) -> Accepted:
    """Receipt and event as one; the phase or the lease may have been lost meanwhile."""
    with live.store.transaction("fail" if receipt.failure else "contribute") as tx:
        held, now = _find(tx, node, assignment), time.time()
        if (reply := _said_before(held.row, command)) is not None:
            return reply
        _check_lease(held, command.token)
        status, kind = ("failed", "failed") if receipt.failure else ("done", "reported")
        values = {
            "status": status,
            "lease_until": None,
            "update": receipt.digest or None,
            "contribution": _comparable(command),
            "receipt": asdict(receipt),
        }
        tx.execute(update(assignments).where(assignments.c.id == assignment).values(**values))
        key = {name: held.row._mapping[name] for name in (*PHASE_KEY, "client")}
        tx.execute(insert(phase_events).values(**key, kind=kind, at=max(0.0, now - held.opened_at)))
    live.delivered.discard((assignment, command.token))
    live.bells.ring(of_run(held.row.run_id))
    return Accepted(assignment=assignment, outcome="failed" if receipt.failure else "counted")


def _find(tx: Connection, node: NodeIdentity, assignment: str) -> Held:
    query = (
        select(
            assignments, phases.c.opened_at, phases.c.status.label("phase_status"), runs.c.status.label("run_status")
        )
        .join(phases, PHASE_OF)
        .join(runs, runs.c.id == assignments.c.run_id)
        .where(assignments.c.id == assignment, assignments.c.node_id == node.id)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFoundError("assignment_unknown", "There is no such assignment of this node.", "", "Poll for work.")
    takes = row.phase_status == "open" and row.run_status in (RunStatus.RUNNING, RunStatus.WAITING)
    return Held(row, row.opened_at, takes)


def _said_before(row: AssignmentRow, command: Contribute | Fail) -> Accepted | None:
    """The reply of before, where this was told before.

    Raises:
        ConflictError: ``already_answered`` where something else was told.
    """
    if row.status not in ("done", "failed"):
        return None
    if row.contribution == _comparable(command):
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
