"""The rows of one phase: its order, its assignments, and what became of them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, delete, func, insert, or_, select, update

from foedus.domain.round import PhaseOrder, Receipt
from foedus.store.tables import assignments, client_states, datasets, nodes, phases

ONGOING = ("open", "closing")
"""States of a phase that is neither closed nor abandoned; a closing one takes no contributions."""

PLACE = ("run_id", "round", "phase", "attempt")
"""The columns by which a phase is found, in every table that has to do with phases."""


def of_phase(table: Table) -> ColumnElement[bool]:
    """The condition that joins a table's rows with their phase."""
    return and_(*(phases.c[name] == table.c[name] for name in PLACE))


PHASE_OF = of_phase(assignments)
"""An assignment's own phase."""

TAKES = or_(phases.c.status == "open", assignments.c.carries == 1)
"""Whether an answer to an assignment is still taken, where it is joined with its phase."""

LATE = "no_answer: it did not contribute before the phase was closed"


@dataclass(frozen=True)
class Answers:
    """What came of a phase: a receipt for each client asked, and the updates that count, as digests by client."""

    receipts: tuple[Receipt, ...]
    updates: Mapping[str, str]

    @property
    def counted(self) -> tuple[Receipt, ...]:
        """The receipts of contributions."""
        return tuple(receipt for receipt in self.receipts if not receipt.failure)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why those failed who said so."""
        return tuple(f"{one.client}: {one.failure}" for one in self.receipts if one.failure not in ("", LATE))


def key_of(run: str, order: PhaseOrder) -> dict[str, Any]:
    """The values of :data:`PLACE`."""
    return dict(zip(PLACE, (run, order.round, order.phase, order.attempt), strict=True))


def matches(table: Table, run: str, order: PhaseOrder) -> list[ColumnElement[bool]]:
    """The conditions for a phase's rows in ``table``."""
    return [table.c[column] == value for column, value in key_of(run, order).items()]


def open_order(tx: Connection, run: str) -> PhaseOrder | None:
    """The order of the phase that is going on, if one is."""
    row = tx.execute(select(phases).where(phases.c.run_id == run, phases.c.status.in_(ONGOING))).one_or_none()
    return None if row is None else PhaseOrder(row.round, row.phase, tuple(row.clients), row.attempt)


def abandoned(tx: Connection, run: str, number: int, phase: str) -> int:
    """How many attempts of a phase were abandoned."""
    here = (phases.c.run_id == run, phases.c.round == number, phases.c.phase == phase, phases.c.status == "abandoned")
    return tx.execute(select(func.count()).select_from(phases).where(*here)).scalar_one()


def assigned(tx: Connection, run: str, order: PhaseOrder) -> Sequence[Row[Any]]:
    """The phase's assignments, by client name."""
    query = select(assignments).where(*matches(assignments, run, order)).order_by(assignments.c.client)
    return tx.execute(query).all()


def add_assignments(
    tx: Connection, run: str, order: PhaseOrder, clients: Iterable[str], *, carries: bool = False
) -> set[str]:
    """Ask clients; returns the nodes that own their datasets. What ``carries`` outlives its phase."""
    active = select(datasets).join(nodes, nodes.c.id == datasets.c.node_id).where(nodes.c.status == "active")
    owners = {row.client: row.node_id for row in tx.execute(active)}
    rows = [
        {
            **key_of(run, order),
            "id": f"as_{secrets.token_hex(10)}",
            "client": client,
            "node_id": owners.get(client),
            "status": "open",
            "token": 0,
            "asked_at": time.time(),
            "carries": int(carries),
        }
        for client in clients
    ]
    if rows:
        tx.execute(insert(assignments), rows)
    return {row["node_id"] for row in rows if row["node_id"]}


def close_assignments(tx: Connection, run: str, order: PhaseOrder) -> set[str]:
    """Nobody needs to begin or go on with what is still open, but for what outlives its phase; returns whom it was."""
    here = (*matches(assignments, run, order), assignments.c.carries == 0)
    undone = (*here, assignments.c.status.in_(("open", "leased")))
    at_work = select(assignments.c.node_id).where(*here, assignments.c.status == "leased")
    asked = {str(node) for node in tx.execute(at_work).scalars()}
    tx.execute(update(assignments).where(*undone).values(status="closed", lease_until=None))
    return asked


def unanswered(tx: Connection, run: str, order: PhaseOrder) -> bool:
    """Whether a contribution could still come."""
    undone = (*matches(assignments, run, order), assignments.c.status.in_(("open", "leased")))
    return tx.execute(select(assignments.c.id).where(*undone).limit(1)).first() is not None


def answers(tx: Connection, run: str, order: PhaseOrder, counted: frozenset[str]) -> Answers:
    """What came of a phase that is closed over the clients ``counted``; the others have failed it, or came too late."""
    rows = {row.client: row for row in assigned(tx, run, order)}
    receipts = []
    for client in sorted(order.clients):
        row = rows.get(client)
        kept = Receipt(**row.receipt) if row is not None and row.receipt is not None else None
        counts = kept is not None and (client in counted or bool(kept.failure))
        receipts.append(kept if kept is not None and counts else Receipt(client, {}, {}, failure=LATE))
    updates = {kept.client: kept.digest for kept in receipts if kept.digest}
    return Answers(tuple(receipts), updates)


def forget_state(tx: Connection, run: str, client: str) -> None:
    """Have a client begin without a state the next time: its node has not the one that counts."""
    tx.execute(delete(client_states).where(client_states.c.run_id == run, client_states.c.client == client))


def make_current(tx: Connection, run: str, order: PhaseOrder, counted: Iterable[Receipt]) -> None:
    """The states that came with counted contributions are those to start from next time."""
    for receipt in counted:
        if receipt.state:
            here = (client_states.c.run_id == run, client_states.c.client == receipt.client)
            tx.execute(delete(client_states).where(*here))
            place = {"round": order.round, "phase": order.phase}
            row = {"run_id": run, "client": receipt.client, "digest": receipt.state, **place}
            tx.execute(insert(client_states).values(**row))
