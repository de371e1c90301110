"""Which clients a run can ask, and who is waiting for whom."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from foedus.coordinator.orders import TAKES
from foedus.coordinator.run_rows import RunRow, spec_of
from foedus.domain.errors import ConflictError
from foedus.domain.facts import Facts
from foedus.domain.run import RunSpec
from foedus.store.aligning import schemas
from foedus.store.tables import approvals, assignments, datasets, nodes, phases
from foedus.wire.messages import ClientStatus

AWAY = 90.0
"""Seconds without a word after which a node is shown as away. It still belongs to the population."""


@dataclass(frozen=True)
class Candidate:
    """A dataset that matches a run's tags, and what its owner says of the run's plan (empty: nothing yet).

    ``also``: others of the same node that match. Nobody can say which is meant, so that none of them is asked.
    ``schema``: what its node said where a run asks for schemas: empty where it told it, else why it keeps it.
    """

    client: str
    node: str
    node_name: str
    state: str
    note: str
    last_seen: float | None
    also: tuple[str, ...] = ()
    schema: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked."""
        return self.state == "approved" and not self.also


def candidates(connection: Connection, run: RunRow, node: str | None = None) -> list[Candidate]:
    """The matching datasets of active nodes, or of one, by client name; of a node that has several, the first."""
    wanted = set(spec_of(run).data.tags)
    approval = (approvals.c.node_id == nodes.c.id) & (approvals.c.digest == run.plan)
    query = (
        select(datasets, nodes.c.name, nodes.c.last_seen, approvals.c.state, approvals.c.note)
        .join(nodes, nodes.c.id == datasets.c.node_id)
        .outerjoin(approvals, approval)
        .where(nodes.c.status == "active", *([] if node is None else [nodes.c.id == node]))
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


def is_unaligned(run: RunRow) -> bool:
    """Whether a run waits for the schemas of its clients."""
    return not run.initial_model and run.alignment is None


def asked_for_schemas(connection: Connection, run: RunRow, node: str | None = None) -> list[Candidate]:
    """The clients, or those of one node, whose schemas a run wants, with what they said.

    They are all that match, or the one that the run names.
    """
    align = spec_of(run).data.align
    named = None if align is None else align.client
    rows = connection.execute(select(schemas).where(schemas.c.run_id == run.id))
    said = {row.client: f"{row.code}: {row.reason}" if row.code else "" for row in rows}
    found = [one for one in candidates(connection, run, node) if named in (None, one.client)]
    return [replace(one, schema=said.get(one.client)) for one in found]


def schemas_needed(spec: RunSpec) -> int:
    """How many schemas fix how a run's tables are read."""
    align = spec.data.align
    return 1 if align is None or align.client is not None else align.clients or needed(spec)


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
    spec = spec_of(run)
    if is_unaligned(run):
        found, want = asked_for_schemas(connection, run), schemas_needed(spec)
        done = sum(one.is_ready and one.schema == "" for one in found)
    elif not run.initial_model:
        return f"whoever submitted it: its tables are aligned, and `foedus run align {run.id} RUN.toml` begins it"
    else:
        found, want = candidates(connection, run), needed(spec)
        done = sum(one.is_ready for one in found)
    if done >= want:
        return ""
    reasons = [reason for one in found if (reason := _reason(one, run))]
    absent, tags = want - len(found), ", ".join(spec.data.tags)
    if absent > 0 and is_unaligned(run) and spec.data.align is not None and spec.data.align.client:
        reasons.append(f"the dataset {spec.data.align.client}, of which the schema is wanted, has to join")
    elif absent > 0:
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


def _reason(one: Candidate, run: RunRow) -> str:
    """Why a client keeps a run waiting; empty where it does not."""
    if one.is_ready and is_unaligned(run):
        told = "has to tell the columns of its table" if one.schema is None else f"keeps its schema ({one.schema})"
        return "" if one.schema == "" else f"{one.client}: the node {one.node_name} {told}"
    if one.is_ready:
        return ""
    plan = run.plan
    if one.also:
        both = f"{one.client}, {', '.join(one.also)}"
        return f"{one.node_name}: its owner offers more than one dataset with the run's tags ({both})"
    owner = f"{one.client}: the owner of {one.node_name}"
    if one.state == "rejected":
        return f"{owner} has rejected plan {plan[:12]}{f' ({one.note})' if one.note else ''}"
    return f"{owner} has not approved plan {plan[:12]}"
