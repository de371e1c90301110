"""Follow a live run: say who waits for whom, tell observers of rounds, and keep the run's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foedus.cli.output import say
from foedus.cli.progress import progress
from foedus.cli.streaming import streaming
from foedus.client import runs
from foedus.client.http import Connection
from foedus.data.catalogue import federate
from foedus.domain.codec import TensorFile
from foedus.domain.errors import FoedusError, RunFailedError
from foedus.domain.lifecycle import ENDED, RunStatus
from foedus.domain.plain import Json
from foedus.domain.round import PhaseRecord, Receipt, RoundRecord
from foedus.domain.run import RunSpec, parse_spec
from foedus.domain.track import TrackTable
from foedus.domain.tree import Tensors
from foedus.engine.folder import MODEL, RunFolder, choose_folder
from foedus.engine.observers import Observer
from foedus.engine.prepare import Prepared
from foedus.engine.results import Outcome, close_folder, recorded
from foedus.engine.simulate import HeldOut
from foedus.engine.trackers import tracking
from foedus.wire.messages import PhaseView, RoundView, RunView

LOOK = 0.5
"""Seconds between two looks at a run that waits."""

LOOKS = 50
"""How often a run's rounds are fetched at most, whatever their number."""

INTERRUPTIONS = {
    "run_paused": "paused",
    "run_resumed": "resumed",
    "round_abandoned": "abandoned",
    "state_mended": "mended",
}
"""What is said of a run on its way, by event."""

FACTS: Mapping[str, Json] = {"kernel": "eager", "executor": "nodes"}
"""How live runs are computed."""


def watch(connection: Connection, run: str, out: Path | None, prepared: Prepared | None = None) -> dict[str, Json]:
    """Follow a run to its end and write its folder; returns its summary.

    With ``prepared`` the model is measured on the held-out part as well, where the data are here.

    Raises:
        RunFailedError: ``run_failed``, ``run_cancelled``.
    """
    view = runs.show(connection, run)
    spec = parse_spec(view.spec)
    folder = RunFolder(choose_folder(out, view.name, datetime.now(UTC), force=True), spec)
    folder.environment({**FACTS, "id": run, "coordinator": connection.url})
    # Which trackers are told, and where, is this machine's to say: the coordinator's copy of the run has no say in it.
    track = prepared.spec.track if prepared else TrackTable()
    told = spec.model_copy(update={"track": track})
    with recorded(folder, spec, view.name), tracking(told, folder.path.resolve().name) as trackers:
        with progress(spec.rounds) as observer, streaming(connection, run, trackers):
            view = follow(connection, run, [folder, observer, *trackers.observers])
        runs.download_model(connection, run, None, folder.path / MODEL)
    held_out = measured(prepared, read_model(folder.path)) if prepared else {}
    return close_live(folder, spec, view, held_out)


def close_live(
    folder: RunFolder,
    spec: RunSpec,
    view: RunView,
    held_out: Mapping[str, float],
    comparison: Sequence[tuple[str, float]] = (),
) -> dict[str, Json]:
    """Write the folder of a run that has ended; returns its summary.

    Raises:
        RunFailedError: ``run_failed``, ``run_cancelled``.
    """
    seconds = sum(row.seconds for row in folder.history.rows)
    early = view.reason if view.status == RunStatus.COMPLETED else ""
    facts: dict[str, Json] = {"id": view.id, **FACTS, **({"stopped": early} if early else {})}
    summary = close_folder(
        folder, spec, Outcome(view.name, view.status, view.model_digest, seconds, held_out, facts, comparison)
    )
    if view.status != RunStatus.COMPLETED:
        said = summary.get("failures")
        before = f" In the rounds before: {'; '.join(map(str, said))}." if isinstance(said, list) else ""
        raise RunFailedError(
            f"run_{view.status}",
            f"Run {view.id} ended as {view.status} in round {view.round}.",
            view.reason + before,
            f"`foedus run retry {view.id}` lets it go on from there." if view.status == RunStatus.FAILED else "",
        )
    return summary


def follow(connection: Connection, run: str, observers: Sequence[Observer]) -> RunView:
    """Tell observers of a run's rounds until it has ended; returns its last view."""
    view, told = runs.show(connection, run), 0
    step, said = max(1, view.rounds // LOOKS), ""
    while view.status in (RunStatus.DRAFT, RunStatus.WAITING):
        time.sleep(LOOK)
        view = runs.show(connection, run)
        waiting = f"`foedus run start {run}`" if view.status == RunStatus.DRAFT else view.waiting_for
        if waiting != said:
            said = waiting
            say(f"waiting: {said}" if said else "everybody is ready")
    if view.status not in ENDED:
        for event in runs.events(connection, run):
            if event.name in INTERRUPTIONS:
                say(_interruption(event))
            number = _number(event.data) if event.name == "round_committed" else 0
            if number >= told + step:
                told = _tell(connection, run, told, observers)
    _tell(connection, run, told, observers)
    return runs.show(connection, run)


def _tell(connection: Connection, run: str, told: int, observers: Sequence[Observer]) -> int:
    for view in runs.rounds(connection, run).rounds[told:]:
        told = view.round
        for observer in observers:
            observer.round(record_of(view))
    return told


def _interruption(event: runs.Event) -> str:
    data = event.data if isinstance(event.data, dict) else {}
    where = f" round {data['round']}" if "round" in data else ""
    return INTERRUPTIONS[event.name] + where + (f": {data['reason']}" if data.get("reason") else "")


def _number(data: Any) -> int:
    number = data.get("round") if isinstance(data, dict) else None
    return number if isinstance(number, int) else 0


def measured(prepared: Prepared, model: Tensors) -> dict[str, float]:
    """Loss and metrics on the held-out part, or nothing where the run has none or its data are not here."""
    if prepared.spec.data.held_out is None:
        return {}
    try:
        federation = federate(prepared.spec, prepared.base, prepared.alignment)
    except FoedusError as error:
        say(f"The model is not measured on the held-out part, whose data are not here: {error.what}")
        return {}
    return HeldOut(prepared, federation.held_out).measure(model)


def read_model(folder: Path) -> Tensors:
    """The model in a run's folder, in memory."""
    with TensorFile(folder / MODEL) as file:
        return dict(file)


def record_of(view: RoundView) -> RoundRecord:
    """A round as the API tells it, as the record that a simulation makes."""
    return RoundRecord(view.round, tuple(map(_phase, view.phases)), view.model, view.seconds)


def _phase(view: PhaseView) -> PhaseRecord:
    receipts = tuple(Receipt(**receipt.model_dump()) for receipt in view.receipts)
    traffic = (view.bytes_down, view.bytes_up)
    return PhaseRecord(view.phase, view.asked, receipts, view.metrics, *traffic, outcome=view.outcome)
