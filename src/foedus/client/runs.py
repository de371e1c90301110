"""Runs, as a researcher starts, follows and ends them, and the models that come of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from foedus.client.blobs import download, upload
from foedus.client.http import Connection, identified
from foedus.client.sse import ServerEvent, server_events
from foedus.data.align import ALIGNMENT_LIMIT, Alignment, parse_alignment
from foedus.domain.errors import FoedusError, NotFoundError
from foedus.domain.lifecycle import ENDED
from foedus.domain.plain import Json
from foedus.domain.plan import ModelManifest, PlanBundle
from foedus.domain.run import RunSpec
from foedus.wire.http import malformed, transient
from foedus.wire.lineage import Lineage, UpdateList, UpdateView
from foedus.wire.messages import Manifest, ModelList, ModelView, Parameters, RoundList, RunList, RunView, SubmitRun
from foedus.wire.plan_signature import PlanSignature


@dataclass(frozen=True)
class Submission:
    """All that a run needs: run.toml as resolved, the plan's bytes, and the model as the researcher's side made it.

    ``parameters`` are the initial parameters and buffers as a safetensors file, ``manifest`` what they are; none where
    nodes are asked for their schemas first. ``signed``: the plan's signature by its author, where there is one.
    ``alignment``: how the researcher has tables read, where they are aligned.
    """

    spec: RunSpec
    bundle: PlanBundle
    parameters: bytes | None
    manifest: ModelManifest | None
    signed: PlanSignature | None = None
    alignment: Alignment | None = None


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
    parameters, manifest, alignment = submission.parameters, submission.manifest, submission.alignment
    message = SubmitRun(
        spec=submission.spec.model_dump(mode="json"),
        plan=submission.bundle.digest,
        plan_blob=upload(connection, submission.bundle.to_bytes()),
        parameters=None if parameters is None else upload(connection, parameters),
        manifest=None if manifest is None else Manifest.model_validate(asdict(manifest)),
        draft=draft,
        signed=submission.signed,
        alignment=None if alignment is None else upload(connection, alignment.to_bytes()),
    )
    return connection.post("/runs", RunView, message)


def alignment_of(connection: Connection, view: RunView) -> Alignment | None:
    """How a run has tables read; none where it does not say, or not yet.

    Raises:
        ConfigError: where what the coordinator has is no alignment.
    """
    if view.alignment is None:
        return None
    with tempfile.TemporaryDirectory(prefix="foedus-") as folder:
        file = download(connection, view.alignment, Path(folder) / "alignment.json", limit=ALIGNMENT_LIMIT)
        return parse_alignment(file.read_bytes())


def give_parameters(connection: Connection, run: str, parameters: bytes, manifest: ModelManifest) -> RunView:
    """Bring the initial model of a run whose tables have been aligned; it begins with it.

    Raises:
        FoedusError: the coordinator's own error, or an :class:`UnreachableError`.
    """
    described = Manifest.model_validate(asdict(manifest))
    message = Parameters(parameters=upload(connection, parameters), manifest=described)
    return connection.post(f"{_path(run)}/parameters", RunView, message)


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


def model(connection: Connection, run: str, round_number: int | None) -> ModelView:
    """The run's model after a round; none: the latest.

    Raises:
        NotFoundError: ``model_missing``.
    """
    if round_number is None:
        return max(models(connection, run), key=lambda view: view.round)
    return connection.get(f"{_path(run)}/models/{round_number}", ModelView)


def download_model(connection: Connection, run: str, round_number: int | None, target: Path) -> ModelView:
    """Bring the model after a round (none: the latest) into the file ``target``, verified by its SHA-256.

    Raises:
        NotFoundError: ``model_missing``.
    """
    view = model(connection, run, round_number)
    download(connection, view.blob, target, limit=view.size)
    return view


def lineage(connection: Connection, run: str, round_number: int) -> Lineage:
    """Where the model after a round comes from.

    Raises:
        NotFoundError: ``model_missing``.
    """
    return connection.get(f"{_path(run)}/models/{round_number}/lineage", Lineage)


def updates(connection: Connection, run: str, round_number: int) -> tuple[UpdateView, ...]:
    """What each client sent in a round.

    Raises:
        NotFoundError: ``model_missing``.
    """
    return connection.get(f"{_path(run)}/rounds/{round_number}/updates", UpdateList).updates


def download_updates(connection: Connection, run: str, round_number: int, folder: Path) -> tuple[Path, ...]:
    """Bring the updates of a round that are kept into ``folder``, a file for each client, verified by their SHA-256.

    Raises:
        NotFoundError: ``updates_not_kept`` where none is.
    """
    kept = [view for view in updates(connection, run, round_number) if view.kept]
    if not kept:
        raise NotFoundError(
            "updates_not_kept",
            f"No update of round {round_number} of run {run} is kept.",
            "Updates are deleted once they are aggregated, unless the run says otherwise.",
            "Submit with `--set trainer.delete_local_models_after_aggregation=false`.",
        )
    return tuple(
        download(connection, view.digest, folder / f"{view.client}.safetensors", limit=view.size) for view in kept
    )


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
