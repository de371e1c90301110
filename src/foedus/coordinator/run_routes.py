"""The door for people who train: runs, their rounds and models, and what happens in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Request
from sqlalchemy import Connection

from foedus.coordinator import lineage, runs, steering, submitting
from foedus.coordinator.bells import RUNS, of_node, of_run
from foedus.coordinator.blob_access import check_readable
from foedus.coordinator.context import context
from foedus.coordinator.http import idempotency_key, once, parse, person, read, read_body
from foedus.coordinator.identities import Person
from foedus.coordinator.policy import acts
from foedus.coordinator.readiness import candidates, is_unaligned
from foedus.coordinator.run_rows import find_run
from foedus.store.audit import Act, record
from foedus.store.unit_of_work import notice
from foedus.wire.http import IDEMPOTENCY_KEY
from foedus.wire.lineage import Lineage, UpdateList
from foedus.wire.messages import ModelList, ModelView, Parameters, RoundList, RunList, RunView, SubmitRun

router = APIRouter(prefix="/api/v1/runs", tags=["people"])
Who = Annotated[Person, Depends(person)]
Round = Annotated[int, Path(ge=0, le=2**53)]


@router.post("", **acts("runs.submit"))
async def post_run(request: Request, who: Who) -> RunView:
    """Submit a run. The same Idempotency-Key submits it once."""
    key, body, live = idempotency_key(request), await read_body(request), context(request).live
    command = parse(SubmitRun, body)

    def work() -> RunView:
        with live.store.reading() as tx:
            for digest in filter(None, (command.plan_blob, command.parameters, command.alignment)):
                check_readable(tx, who, digest)
        submission = submitting.prepare(live.artifacts, command)
        with live.store.transaction("submit") as tx:
            reply = once(tx, who.actor, key, body, lambda: submitting.submit(tx, submission, who))
            view = RunView.model_validate(reply)
            _ring(tx, view.id)
        return view

    return await to_thread.run_sync(work)


@router.get("", **acts("runs.read"))
def get_runs(request: Request, who: Who) -> RunList:
    """Runs, the newest first."""
    return read(request, lambda tx: runs.list_runs(tx, who))


@router.get("/{run}", **acts("runs.read"))
def get_run(request: Request, run: str, who: Who) -> RunView:
    """One run, with its clients and who is waiting for whom."""
    return read(request, lambda tx: runs.show(tx, run))


@router.get("/{run}/rounds", **acts("runs.read"))
def get_rounds(request: Request, run: str, who: Who) -> RoundList:
    """The rounds so far, with what each client sent."""
    return read(request, lambda tx: runs.list_rounds(tx, run))


@router.get("/{run}/models", **acts("runs.read"))
def get_models(request: Request, run: str, who: Who) -> ModelList:
    """Every version of the run's model."""
    return read(request, lambda tx: runs.list_models(tx, run))


@router.get("/{run}/models/{number}", **acts("runs.read"))
def get_model(request: Request, run: str, number: Round, who: Who) -> ModelView:
    """The run's model after a round."""
    return read(request, lambda tx: runs.model_of(tx, run, number))


@router.get("/{run}/models/{number}/lineage", **acts("runs.read"))
def get_lineage(request: Request, run: str, number: Round, who: Who) -> Lineage:
    """Where the model after a round comes from."""
    return read(request, lambda tx: lineage.lineage(tx, run, number))


@router.get("/{run}/rounds/{number}/updates", **acts("runs.read"))
def get_updates(request: Request, run: str, number: Round, who: Who) -> UpdateList:
    """What each client sent in a round, and whether it is kept."""
    artifacts = context(request).artifacts
    return read(request, lambda tx: lineage.updates(tx, artifacts, run, number))


@router.post("/{run}/parameters", **acts("runs.change"))
async def post_parameters(request: Request, run: str, who: Who) -> RunView:
    """The initial model of a run whose tables have been aligned; it begins when its clients are ready."""
    command, live = parse(Parameters, await read_body(request)), context(request).live

    def work() -> RunView:
        with live.store.reading() as tx:
            check_readable(tx, who, command.parameters)
            row = find_run(tx, run)
        start = submitting.prepare_start(live, row, command)
        return _steer(
            request, run, who, "parameters", lambda tx, run: submitting.give_parameters(tx, run, start, live.artifacts)
        )

    return await to_thread.run_sync(work)


@router.post("/{run}/start", status_code=202, **acts("runs.change"))
def post_start(request: Request, run: str, who: Who) -> RunView:
    """Let a draft begin."""
    return _steer(request, run, who, "start_draft", steering.start)


@router.post("/{run}/pause", **acts("runs.change"))
def post_pause(request: Request, run: str, who: Who) -> RunView:
    """Let a run rest; nodes stop working for it."""
    return _steer(request, run, who, "pause_run", steering.pause)


@router.post("/{run}/resume", **acts("runs.change"))
def post_resume(request: Request, run: str, who: Who) -> RunView:
    """Let a paused run go on."""
    return _steer(request, run, who, "resume_run", steering.resume)


@router.post("/{run}/retry", **acts("runs.change"))
def post_retry(request: Request, run: str, who: Who) -> RunView:
    """Let a run that failed go on from where it was."""
    artifacts = context(request).artifacts
    return _steer(request, run, who, "retry_run", lambda tx, run: steering.retry(tx, artifacts, run))


@router.post("/{run}/cancel", **acts("runs.change"))
def post_cancel(request: Request, run: str, who: Who) -> RunView:
    """End a run before its time, for good."""
    return _steer(request, run, who, "cancel_run", steering.cancel)


def _steer(request: Request, run: str, who: Person, name: str, move: Callable[[Connection, str], None]) -> RunView:
    """Make a move; one that comes again with the same Idempotency-Key is answered as it was."""

    def effect() -> RunView:
        move(tx, run)
        record(tx, Act(who.actor, f"runs.{name.partition('_')[0]}", run, who.org))
        return runs.show(tx, run)

    with context(request).store.transaction(name) as tx:
        if IDEMPOTENCY_KEY in request.headers:
            view = RunView.model_validate(
                once(tx, who.actor, idempotency_key(request), f"{name} {run}".encode(), effect)
            )
        else:
            view = effect()
        _ring(tx, run)
    return view


def _ring(tx: Connection, run: str) -> None:
    """A run begins, goes on or has ended: its driver, who follows it, and nodes that have to decide or tell look."""
    row = find_run(tx, run)
    asked = {one.node for one in candidates(tx, row) if not one.state or is_unaligned(row)}
    nodes = asked | set(runs.followers(tx, run))
    notice(tx, RUNS, of_run(run), *map(of_node, nodes))
