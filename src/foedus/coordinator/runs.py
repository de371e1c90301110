"""What people do with runs: submit, list and show them, and read their rounds and models."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select

from foedus.coordinator.blob_rows import name_blobs
from foedus.coordinator.checks import check_model
from foedus.coordinator.folding import MODEL, begin, digest_of_model
from foedus.coordinator.identities import Person
from foedus.coordinator.live import RUN, RunRow, find_run, parse_manifest, spec_of
from foedus.coordinator.moves import RUN_TOLD, attempt_of
from foedus.coordinator.orders import ONGOING
from foedus.coordinator.policy import within
from foedus.coordinator.readiness import check_unambiguous, statuses, waiting_for
from foedus.coordinator.telling import tell
from foedus.domain.errors import IntegrityError, NotFoundError
from foedus.domain.lifecycle import ENDED, RunStatus
from foedus.domain.plain import Json
from foedus.domain.plan import BUNDLE_LIMIT, parse_bundle
from foedus.domain.run import parse_spec
from foedus.store.artifacts import Artifacts, hash_file
from foedus.store.audit import Act, record
from foedus.store.tables import assignments, blobs, events, phases, rounds, runs
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import RunContext
from foedus.wire.messages import (
    ModelList,
    ModelView,
    PhaseView,
    ReceiptView,
    RoundList,
    RoundView,
    RunList,
    RunView,
    SubmitRun,
)
from foedus.wire.plan_signature import check_signature

LIST_LIMIT = 500
ALERTS = 5


@dataclass(frozen=True)
class Submission:
    """A run that could begin: everything checked, its first state's parts on disk."""

    command: SubmitRun
    name: str
    data: Mapping[str, Json]
    parts: Mapping[str, str]
    artifacts: Artifacts
    model_digest: str


def prepare(artifacts: Artifacts, command: SubmitRun) -> Submission:
    """Check all that a run brings, before anything is recorded of it.

    Raises:
        ConfigError: ``config_refused``, ``strategy_unknown``, ``strategy_unsound``.
        PlanError: ``plan_malformed``.
        IntegrityError: ``plan_digest``, ``metadata_refused``, or what is wrong with the initial model.
        NotFoundError: ``blob_unknown`` where a blob was not uploaded before.
        AccessError: ``key_malformed``, ``proof_refused`` where the plan's signature is not of it.
    """
    spec, manifest = parse_spec(command.spec), parse_manifest(command.manifest.model_dump())
    strategy = build(RunContext(spec, manifest))
    bundle = artifacts.path(command.plan_blob)
    if bundle.stat().st_size > 2 * BUNDLE_LIMIT or parse_bundle(bundle.read_bytes()).digest != command.plan:
        raise IntegrityError(
            "plan_digest",
            "The plan's bytes are not those of the digest.",
            "Owners approve the digest.",
            "Send both anew.",
        )
    if command.signed is not None:
        check_signature(command.signed, command.plan)
    model = artifacts.path(command.parameters)
    check_model(model, manifest)
    data, files = begin(strategy, model, artifacts.temporary)
    parts = {MODEL: command.parameters}
    for part, file in files.items():
        if part != MODEL:
            parts[part] = hash_file(file)
            artifacts.adopt(file, parts[part])
    name = spec.name or f"{spec.strategy.name}-{command.plan[:6]}"
    return Submission(command, name, data, parts, artifacts, digest_of_model(model))


def submit(connection: Connection, submission: Submission, author: Person) -> RunView:
    """Record a run that was prepared: as a draft, or waiting for its clients.

    Raises:
        ConflictError: ``dataset_ambiguous`` where it would find two datasets of one node.
    """
    now, run, command = time.time(), f"run_{secrets.token_hex(6)}", submission.command
    status = RunStatus.DRAFT if command.draft else RunStatus.WAITING
    name_blobs(connection, submission.artifacts, (*submission.parts.values(), command.plan_blob))
    row = {
        "id": run,
        "name": submission.name,
        "status": status.value,
        "spec": command.spec,
        "plan": command.plan,
        "plan_blob": command.plan_blob,
        "manifest": command.manifest.model_dump(mode="json"),
        "author": author.name,
        "owner_id": author.id,
        "org_id": author.org,
        "created_at": now,
        "updated_at": now,
        "data": dict(submission.data),
        "parts": dict(submission.parts),
        "initial_model": command.parameters,
        "plan_signature": None if command.signed is None else command.signed.model_dump(mode="json"),
    }
    connection.execute(insert(runs).values(**row))
    model = {"model_digest": submission.model_digest, "model_blob": command.parameters}
    connection.execute(insert(rounds).values(run_id=run, round=0, record={}, **model))
    found = find_run(connection, run)
    if not command.draft:
        check_unambiguous(connection, found)
    tell(connection, found, RUN_TOLD[status], now, status=status.value)
    record(connection, Act(author.actor, "runs.submit", run, author.org, detail={"plan": command.plan}))
    return view(connection, found)


def show(connection: Connection, run: str) -> RunView:
    """One run, with its clients and who is waiting for whom."""
    return view(connection, find_run(connection, run))


def list_runs(connection: Connection, who: Person) -> RunList:
    """The runs that somebody may see, the newest first, without their clients and specs."""
    mine = within(who, "runs.read", runs.c.owner_id, runs.c.org_id)
    rows = connection.execute(RUN.where(mine).order_by(runs.c.created_at.desc()).limit(LIST_LIMIT)).all()
    return RunList(runs=tuple(_summary(connection, row) for row in rows))


def list_rounds(connection: Connection, run: str) -> RoundList:
    """The rounds that were committed, in order."""
    find_run(connection, run)
    query = select(rounds).where(rounds.c.run_id == run, rounds.c.round > 0).order_by(rounds.c.round)
    return RoundList(rounds=tuple(_round_view(row.record) for row in connection.execute(query)))


def list_models(connection: Connection, run: str) -> ModelList:
    """The model after each round; round 0 is the initial one."""
    find_run(connection, run)
    return ModelList(models=_models(connection, run))


def model_of(connection: Connection, run: str, number: int) -> ModelView:
    """The model after a round; 0: the initial one.

    Raises:
        NotFoundError: ``run_unknown``, ``model_missing``.
    """
    find_run(connection, run)
    if found := _models(connection, run, rounds.c.round == number):
        return found[0]
    last = connection.execute(select(func.max(rounds.c.round)).where(rounds.c.run_id == run)).scalar()
    raise NotFoundError(
        "model_missing",
        f"Run {run} has no model of round {number}.",
        "It has none yet." if last is None else f"It has models of the rounds 0 to {last}.",
        "Name another round.",
    )


def _models(connection: Connection, run: str, *wanted: ColumnElement[bool]) -> tuple[ModelView, ...]:
    columns = (rounds.c.round, rounds.c.model_digest, rounds.c.model_blob.label("blob"), blobs.c.size)
    query = select(*columns).join(blobs, blobs.c.digest == rounds.c.model_blob).where(rounds.c.run_id == run, *wanted)
    rows = connection.execute(query.order_by(rounds.c.round))
    return tuple(ModelView(run=run, **row._mapping) for row in rows)


def view(connection: Connection, run: RunRow) -> RunView:
    """A run as people see it."""
    summary = _summary(connection, run)
    details: dict[str, Any] = {"spec": run.spec, "alerts": _alerts(connection, run.id)}
    if run.status not in ENDED:
        details |= {
            "clients": statuses(connection, run, time.time()),
            "waiting_for": waiting_for(connection, run),
        }
    return summary.model_copy(update=details)


def _alerts(connection: Connection, run: str) -> tuple[str, ...]:
    """What people should look into: the last times that a part of the run's state was damaged and made again."""
    here = (events.c.run_id == run, events.c.kind == "state_mended")
    rows = connection.execute(select(events.c.data).where(*here).order_by(events.c.number.desc()).limit(ALERTS))
    return tuple(row.data["reason"] for row in rows)


def followers(connection: Connection, run: str) -> list[str]:
    """The nodes that were ever asked for a run: they hear when it ends."""
    query = select(assignments.c.node_id).where(assignments.c.run_id == run, assignments.c.node_id.is_not(None))
    return [str(node) for node in connection.execute(query.distinct()).scalars()]


def _summary(connection: Connection, run: RunRow) -> RunView:
    latest = connection.execute(
        select(rounds).where(rounds.c.run_id == run.id).order_by(rounds.c.round.desc()).limit(1)
    ).one_or_none()
    if latest is None:
        raise NotFoundError("run_unknown", f"Run {run.id} has no model.")
    here = (phases.c.run_id == run.id, phases.c.status.in_(ONGOING))
    phase = connection.execute(select(func.max(phases.c.phase)).where(*here)).scalar()
    spec, stage = spec_of(run), attempt_of(connection, run.id, run.data["round"])
    return RunView(
        id=run.id,
        name=run.name,
        status=run.status,
        reason=run.reason,
        round=latest.round,
        rounds=spec.rounds,
        phase="" if run.status in ENDED else phase or "",
        stage="" if stage is None else stage.stage,
        plan=run.plan,
        strategy=spec.strategy.name,
        created_at=datetime.fromtimestamp(run.created_at, UTC),
        model_digest=latest.model_digest,
        metrics=latest.record.get("metrics", {}),
    )


def _round_view(record: dict[str, Any]) -> RoundView:
    """A committed round, as :meth:`LivePort.end_round` stored it, as a message."""
    views = tuple(
        PhaseView(
            **{key: value for key, value in phase.items() if key != "receipts"},
            receipts=tuple(
                ReceiptView(**{key: value for key, value in receipt.items() if key != "state"})
                for receipt in phase["receipts"]
            ),
        )
        for phase in record["phases"]
    )
    return RoundView(**{key: value for key, value in record.items() if key != "phases"}, phases=views)
