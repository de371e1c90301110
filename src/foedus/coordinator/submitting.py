"""How a run comes in: everything checked that it brings, its first state stored, and its row written.

A run whose tables are aligned first (:mod:`foedus.coordinator.aligning`) brings no model yet; that comes later.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, update

from foedus.coordinator.blob_rows import name_blobs
from foedus.coordinator.checks import check_model
from foedus.coordinator.folding import MODEL, begin, digest_of_model
from foedus.coordinator.identities import Person
from foedus.coordinator.live import Live, parse_manifest
from foedus.coordinator.moves import RUN_TOLD
from foedus.coordinator.readiness import check_unambiguous
from foedus.coordinator.run_rows import RunRow, find_run, spec_of
from foedus.coordinator.runs import view
from foedus.coordinator.telling import tell
from foedus.data.align import ALIGNMENT_LIMIT, parse_alignment
from foedus.domain.errors import ConflictError, IntegrityError, UsageError
from foedus.domain.lifecycle import ENDED, RunStatus
from foedus.domain.plain import Json
from foedus.domain.plan import BUNDLE_LIMIT, parse_bundle
from foedus.domain.run import RunSpec, parse_spec
from foedus.store.artifacts import Artifacts, hash_file
from foedus.store.audit import Act, record
from foedus.store.tables import rounds, runs
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import RunContext
from foedus.wire.messages import Manifest, Parameters, RunView, SubmitRun
from foedus.wire.plan_signature import check_signature


@dataclass(frozen=True)
class Start:
    """With what a run begins: everything checked, its first state's parts on disk; ``model`` is the initial one."""

    model: str = ""
    model_digest: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Json] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Submission:
    """A run that could begin, or whose tables are aligned before: everything checked that it brought."""

    command: SubmitRun
    name: str
    start: Start
    artifacts: Artifacts


def prepare(artifacts: Artifacts, command: SubmitRun) -> Submission:
    """Check all that a run brings, before anything is recorded of it.

    Raises:
        ConfigError: ``config_refused``, ``strategy_unknown``, ``strategy_unsound``.
        PlanError: ``plan_malformed``.
        IntegrityError: ``plan_digest``, ``metadata_refused``, or what is wrong with the initial model.
        NotFoundError: ``blob_unknown`` where a blob was not uploaded before.
        AccessError: ``key_malformed``, ``proof_refused`` where the plan's signature is not of it.
    """
    spec = parse_spec(command.spec)
    _check_complete(spec, command)
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
    if command.alignment is not None:
        with artifacts.path(command.alignment).open("rb") as file:
            parse_alignment(file.read(ALIGNMENT_LIMIT + 1))
    name = spec.name or f"{spec.strategy.name}-{command.plan[:6]}"
    return Submission(command, name, _start(artifacts, spec, command.parameters, command.manifest), artifacts)


def _check_complete(spec: RunSpec, command: SubmitRun) -> None:
    """Refuse a run that lacks its model, or brings one that could not know of the tables that nodes have.

    Raises:
        UsageError: ``parameters_refused``.
    """
    align, given = spec.data.align, command.alignment is not None
    waits = align is not None and not given
    whole = (command.parameters is None) == (command.manifest is None) == waits
    if not whole or (given and align is None) or (waits and align is not None and align.loading is not None):
        raise UsageError(
            "parameters_refused",
            "The run and its initial parameters do not go together.",
            "A run has its initial parameters and their manifest with it, unless `data.align` has nodes asked for "
            "their schemas first; where `data.align` names a loading plan, that comes with it.",
            "Submit with `foedus run submit`.",
        )


def _start(artifacts: Artifacts, spec: RunSpec, parameters: str | None, manifest: Manifest | None) -> Start:
    """The first state, of the initial model; none where that is still to come.

    Raises:
        ConfigError, IntegrityError, ContributionError, NotFoundError: as :func:`prepare`.
    """
    if parameters is None or manifest is None:
        return Start()
    described = manifest.model_dump(mode="json")
    known = parse_manifest(described)
    strategy, model = build(RunContext(spec, known)), artifacts.path(parameters)
    check_model(model, known)
    data, files = begin(strategy, model, artifacts.temporary)
    parts = {MODEL: parameters}
    for part, file in files.items():
        if part != MODEL:
            parts[part] = hash_file(file)
            artifacts.adopt(file, parts[part])
    return Start(parameters, digest_of_model(model), described, data, parts)


def submit(connection: Connection, submission: Submission, author: Person) -> RunView:
    """Record a run that was prepared: as a draft, or waiting for its clients.

    Raises:
        ConflictError: ``dataset_ambiguous`` where it would find two datasets of one node.
    """
    now, run, command = time.time(), f"run_{secrets.token_hex(6)}", submission.command
    status = RunStatus.DRAFT if command.draft else RunStatus.WAITING
    brought = [command.plan_blob, *([] if command.alignment is None else [command.alignment])]
    name_blobs(connection, submission.artifacts, brought)
    row = {
        "id": run,
        "name": submission.name,
        "status": status.value,
        "spec": command.spec,
        "plan": command.plan,
        "plan_blob": command.plan_blob,
        "author": author.name,
        "owner_id": author.id,
        "org_id": author.org,
        "created_at": now,
        "updated_at": now,
        "alignment": command.alignment,
        **_first(submission.start),
        "plan_signature": None if command.signed is None else command.signed.model_dump(mode="json"),
    }
    connection.execute(insert(runs).values(**row))
    _keep_start(connection, run, submission.start, submission.artifacts)
    found = find_run(connection, run)
    if not command.draft:
        check_unambiguous(connection, found)
    tell(connection, found, RUN_TOLD[status], now, status=status.value)
    record(connection, Act(author.actor, "runs.submit", run, author.org, detail={"plan": command.plan}))
    return view(connection, found)


def prepare_start(live: Live, run: RunRow, command: Parameters) -> Start:
    """Check the initial model of a run whose tables have been aligned.

    Raises:
        ConfigError, IntegrityError, ContributionError, NotFoundError: as :func:`prepare`.
    """
    return _start(live.artifacts, spec_of(run), command.parameters, command.manifest)


def give_parameters(tx: Connection, run: str, start: Start, artifacts: Artifacts) -> None:
    """Let a run begin whose tables have been aligned; told twice, it begins once.

    Raises:
        ConflictError: ``run_not_aligned``, ``parameters_there``, ``run_state``.
    """
    row = find_run(tx, run)
    if row.initial_model == start.model:
        return
    if row.initial_model:
        raise ConflictError("parameters_there", f"Run {run} has its initial parameters.", "It has others than these.")
    if row.alignment is None:
        why = "They depend on the columns that its clients have, which are not all known."
        fix = f"`foedus run align {run} RUN.toml` waits for them."
        raise ConflictError("run_not_aligned", f"Run {run} takes no initial parameters yet.", why, fix)
    if row.status in ENDED:
        raise ConflictError("run_state", f"Run {run} is {row.status}.", "It has ended.", "Submit a new one.")
    tx.execute(update(runs).where(runs.c.id == run).values(**_first(start), updated_at=time.time()))
    _keep_start(tx, run, start, artifacts)


def _first(start: Start) -> dict[str, Any]:
    columns = {"manifest": dict(start.manifest), "data": dict(start.data), "parts": dict(start.parts)}
    return {**columns, "initial_model": start.model}


def _keep_start(tx: Connection, run: str, start: Start, artifacts: Artifacts) -> None:
    """Name the first state's parts; the initial model is that of round 0."""
    if start.model:
        name_blobs(tx, artifacts, start.parts.values())
        model = {"model_digest": start.model_digest, "model_blob": start.model}
        tx.execute(insert(rounds).values(run_id=run, round=0, record={}, **model))
