"""Runs, as a researcher starts, follows and ends them, and the models that come of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from foedus.client.blobs import download, upload
from foedus.client.http import Connection, identified
from foedus.client.sse import ServerEvent, server_events
from foedus.domain.errors import FoedusError, NotFoundError
from foedus.domain.lifecycle import ENDED
from foedus.domain.plain import Json
from foedus.domain.plan import ModelManifest, PlanBundle
from foedus.domain.run import RunSpec
from foedus.wire.http import malformed, transient
from foedus.wire.messages import Manifest, ModelList, ModelView, RoundList, RunList, RunView, SubmitRun


@dataclass(frozen=True)
class Submission:
    """All that a run needs: run.toml as resolved, the plan's bytes, and the model as the researcher's side made it.

    ``parameters`` are the initial parameters and buffers as a safetensors file, ``manifest`` what they are.
    """

    spec: RunSpec
    bundle: PlanBundle
    parameters: bytes
    manifest: ModelManifest


@dataclass(frozen=True)
class Event:
    """Something that happened in a run; give ``id`` to :func:`events` to go on after it."""

    id: str
    name: str
    data: Json


def submit(connection: Connection, submission: Submission, draft: bool = False) -> RunView:
    """Bring the plan and the parameters to the coordinator, and then the run; a ``draft`` rests until it is started.

    Raises:
        FoedusError: the coordinator's own error, or an :class:`UnreachableError`.
    """
    message = SubmitRun(
        spec=submission.spec.model_dump(mode="json"),
        plan=submission.bundle.digest,
        plan_blob=upload(connection, submission.bundle.to_bytes()),
        parameters=upload(connection, submission.parameters),
        manifest=Manifest.model_validate(asdict(submission.manifest)),
        draft=draft,
    )
    return connection.post("/runs", RunView, message)


def list_runs(connection: Connection) -> tuple[RunView, ...]:
    """Every run that the caller may see, the newest first."""
    return connection.get("/runs", RunList).runs


def show(connection: Connection, run: str) -> RunView:
    """One run, with its clients and who waits for whom."""
    return connection.get(_path(run), RunView)


def rounds(connection: Connection, run: str) -> RoundList:
    """The rounds so far, with what each client sent."""
    return connection.get(f"{_path(run)}/rounds", RoundList)


def start(connection: Connection, run: str) -> RunView:
    """Let a draft begin."""
    return connection.post(f"{_path(run)}/start", RunView)


def pause(connection: Connection, run: str) -> RunView:
    """Let a run rest; nodes stop working for it."""
    return connection.post(f"{_path(run)}/pause", RunView)


def resume(connection: Connection, run: str) -> RunView:
    """Let a paused run go on from where it was."""
    return connection.post(f"{_path(run)}/resume", RunView)


def retry(connection: Connection, run: str) -> RunView:
    """Let a run that failed go on from where it was."""
    return connection.post(f"{_path(run)}/retry", RunView)


def cancel(connection: Connection, run: str) -> RunView:
    """End a run before its time, for good; its models stay."""
    return connection.post(f"{_path(run)}/cancel", RunView)


def models(connection: Connection, run: str) -> tuple[ModelView, ...]:
    """Every version of the run's model, by round."""
    return connection.get(f"{_path(run)}/models", ModelList).models


def download_model(connection: Connection, run: str, round_number: int | None, target: Path) -> ModelView:
    """Bring the model after a round (none: the latest) into the file ``target``, verified by its SHA-256.

    Raises:
        NotFoundError: ``model_missing``.
    """
    views = {view.round: view for view in models(connection, run)}
    wanted = max(views, default=0) if round_number is None else round_number
    if wanted not in views:
        have = f"It has models of the rounds {min(views)} to {max(views)}." if views else "It has none yet."
        raise NotFoundError("model_missing", f"Run {run} has no model of round {wanted}.", have, "Name another round.")
    download(connection, views[wanted].blob, target, limit=views[wanted].size)
    return views[wanted]


def events(connection: Connection, run: str, last_event_id: str = "") -> Iterator[Event]:
    """What happens in a run, as it happens, until the run has ended; broken connections are taken up again.

    ``last_event_id`` goes on after an event that was seen before.

    Raises:
        FoedusError: the coordinator's own error, or an :class:`UnreachableError` when retries did not help.
    """
    path, quiet = f"{_path(run)}/events", 0
    while True:
        quiet += 1
        try:
            for event in _connected(connection, path, last_event_id):
                quiet, last_event_id = 0, event.id or last_event_id
                yield _parsed(connection, event)
            # An ended run whose stream brings nothing more has been told to its end.
            if quiet and show(connection, run).status in ENDED:
                return
        except FoedusError as error:
            if not transient(error) or quiet >= connection.retry.attempts:
                raise
        connection.wait(max(quiet, 1))


def _connected(connection: Connection, path: str, last_event_id: str) -> Iterator[ServerEvent]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
    with connection.stream("GET", path, headers=headers) as response:
        kind = response.headers.get("content-type", "")
        if response.status_code != 204 and not kind.startswith("text/event-stream"):
            raise malformed(connection.url, "Server-sent events were expected.")
        yield from server_events(response.iter_raw())


def _parsed(connection: Connection, event: ServerEvent) -> Event:
    try:
        data: Json = json.loads(event.data)
    except (ValueError, RecursionError) as error:
        raise malformed(connection.url, "An event's data is not JSON.") from error
    return Event(event.id, event.name, data)


def _path(run: str) -> str:
    return f"/runs/{identified('run', run)}"
