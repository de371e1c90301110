"""Which clients a run can ask, and who is waiting for whom."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from foedus.coordinator.live import RunRow, spec_of
from foedus.coordinator.orders import TAKES
from foedus.domain.errors import ConflictError
from foedus.domain.facts import Facts
from foedus.domain.run import RunSpec
from foedus.store.tables import approvals, assignments, datasets, nodes, phases
from foedus.wire.messages import ClientStatus

AWAY = 90.0
"""Seconds without a word after which a node is shown as away. It still belongs to the population."""


@dataclass(frozen=True)
class Candidate:
    """A dataset that matches a run's tags, and what its owner says of the run's plan (empty: nothing yet).

    ``also``: others of the same node that match. Nobody can say which is meant, so that none of them is asked.
    """

    client: str
    node: str
    node_name: str
    state: str
    note: str
    last_seen: float | None
    also: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked."""
        return self.state == "approved" and not self.also


def candidates(connection: Connection, run: RunRow) -> list[Candidate]:
    """The matching datasets of active nodes, by client name; of a node that has several, the first."""
    wanted = set(spec_of(run).data.tags)
    approval = (approvals.c.node_id == nodes.c.id) & (approvals.c.digest == run.plan)
    query = (
        select(datasets, nodes.c.name, nodes.c.last_seen, approvals.c.state, approvals.c.note)
        .join(nodes, nodes.c.id == datasets.c.node_id)
        .outerjoin(approvals, approval)
        .where(nodes.c.status == "active")
        .order_by(datasets.c.client)
    )
    found: dict[str, Candidate] = {}
    for row in connection.execute(query):
        if wanted <= set(row.tags):
            one = Candidate(row.client, row.node_id, row.name, row.state or "", row.note or "", row.last_seen)
            first = found.setdefault(row.node_id, one)
            if first is not one:
                found[row.node_id] = replace(first, also=(*first.also, one.client))
    return sorted(found.values(), key=lambda candidate: candidate.client)


def ready(connection: Connection, run: RunRow) -> dict[str, str]:
    """The clients that may be asked: client name → node."""
    return {one.client: one.node for one in candidates(connection, run) if one.is_ready}


def check_unambiguous(connection: Connection, run: RunRow) -> None:
    """Refuse a run that finds two datasets on one node.

    Raises:
        ConflictError: ``dataset_ambiguous``.
    """
    for one in candidates(connection, run):
        if one.also:
            raise ConflictError(
                "dataset_ambiguous",
                f"The run finds several datasets on the node {one.node_name}: {one.client}, {', '.join(one.also)}.",
                "A run asks one dataset of a node, and these have all of its tags.",
                "Name a tag in `data.tags` that one of them alone has.",
            )


def facts_of(connection: Connection, clients: Collection[str]) -> dict[str, Facts]:
    """What was reported of these clients as their nodes joined in."""
    query = select(datasets, nodes.c.facts).join(nodes, nodes.c.id == datasets.c.node_id)
    return {
        row.client: Facts(
            row.examples,
            row.batch_size,
            row.speed,
            (row.facts or {}).get("device"),
            (row.facts or {}).get("frameworks", {}),
        )
        for row in connection.execute(query)
        if row.client in clients
    }


def needed(spec: RunSpec) -> int:
    """How many clients have to be ready before a round may begin."""
    return spec.cohort.population or spec.cohort.size or 1


def statuses(connection: Connection, run: RunRow, now: float) -> tuple[ClientStatus, ...]:
    """Every matching client, with what it does or waits for."""
    busy = _working(connection, run)
    return tuple(
        ClientStatus(
            client=one.client,
            node=one.node_name,
            status=_status(one, one.client in busy, now),
            note=one.note,
            approval=one.state,
        )
        for one in candidates(connection, run)
    )


def waiting_for(connection: Connection, run: RunRow) -> str:
    """In words, who has to do what before the next round can begin; empty where nobody has."""
    found, want, tags = candidates(connection, run), needed(spec_of(run)), ", ".join(spec_of(run).data.tags)
    missing = want - sum(one.is_ready for one in found)
    if missing <= 0:
        return ""
    reasons = [_reason(one, run.plan) for one in found if not one.is_ready]
    absent = want - len(found)
    if absent > 0:
        which = f" tagged {tags}" if tags else ""
        one_or_many = ("dataset", "has") if absent == 1 else ("datasets", "have")
        reasons.append(f"{absent} more {one_or_many[0]}{which} {one_or_many[1]} to join")
    return "; ".join(reasons)


def _working(connection: Connection, run: RunRow) -> set[str]:
    query = (
        select(assignments.c.client)
        .join(
            phases,
            (phases.c.run_id == assignments.c.run_id)
            & (phases.c.round == assignments.c.round)
            & (phases.c.phase == assignments.c.phase)
            & (phases.c.attempt == assignments.c.attempt),
        )
        .where(assignments.c.run_id == run.id, assignments.c.status == "leased", TAKES)
    )
    return set(connection.execute(query).scalars())


def _status(one: Candidate, busy: bool, now: float) -> str:
    if one.also:
        return "ambiguous"
    if one.state == "rejected":
        return "rejected"
    if one.state != "approved":
        return "waiting_for_approval"
    if busy:
        return "working"
    return "ready" if one.last_seen is not None and now - one.last_seen < AWAY else "away"


def _reason(one: Candidate, plan: str) -> str:
    if one.also:
        both = f"{one.client}, {', '.join(one.also)}"
        return f"{one.node_name}: its owner offers more than one dataset with the run's tags ({both})"
    owner = f"{one.client}: the owner of {one.node_name}"
    if one.state == "rejected":
        return f"{owner} has rejected plan {plan[:12]}{f' ({one.note})' if one.note else ''}"
    return f"{owner} has not approved plan {plan[:12]}"
