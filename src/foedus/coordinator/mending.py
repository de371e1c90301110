"""A part of a live run's state whose file is torn or gone is made again, of what it was made of: the same bytes.

A phase that changes parts of a state leaves a row for each in ``steps``: the state that it began with, and whom it
folded. Together with the phase's record and the updates, which are kept as long (see
:mod:`foedus.coordinator.retention`), that is all that a step is made of. A redo gives the same bytes, and so the same
digest: nothing else of the run changes, whoever finds the damage may mend it, and two that do so do no harm.
What was set aside is never given to anybody. Who follows the run is told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from sqlalchemy import Connection, Row, delete, insert, select

from foedus.coordinator.folding import MODEL, Closing, Given, begin, fold_and_close
from foedus.coordinator.live import Live
from foedus.coordinator.measures import STATES
from foedus.coordinator.orders import key_of, of_phase
from foedus.coordinator.run_rows import RunRow, find_run
from foedus.coordinator.telling import tell
from foedus.domain.errors import FoedusError, RunFailedError, UnreachableError
from foedus.domain.lifecycle import OVER
from foedus.domain.plain import Json
from foedus.domain.round import PhaseOrder, Receipt
from foedus.store.artifacts import hash_file
from foedus.store.tables import phases, runs, steps

DAMAGED = frozenset({"blob_spoiled", "blob_unknown"})
"""What reading a blob that is torn, or was set aside because it is, ends with."""

_one = Lock()
"""One thread of a process at a time makes something again; the others find it made."""

log = logging.getLogger("foedus.coordinator")


@dataclass(frozen=True)
class Made:
    """The parts that were made again, each in a new file, and in words: of what."""

    files: Mapping[str, Path]
    of: str
    round: int = 0
    phase: str = ""


def remember(tx: Connection, run: RunRow, closing: Closing, digests: Mapping[str, str]) -> None:
    """Note, in the transaction that stores a state, what the parts that are new in it were made of."""
    changed = [part for part, digest in digests.items() if digest != run.parts[part]]
    tx.execute(delete(steps).where(steps.c.run_id == run.id, steps.c.part.in_(changed)))
    common = {
        **key_of(run.id, closing.order),
        "clients": list(closing.order.clients),
        "factors": dict(closing.factors),
        "parts": dict(run.parts),
        "data": dict(closing.data),
    }
    if rows := [{**common, "part": part} for part in changed]:
        tx.execute(insert(steps), rows)


def whole(live: Live, digest: str) -> Path:
    """A blob's file, verified, as :meth:`Artifacts.path` gives it; a damaged part of a run's state is made again.

    Raises:
        NotFoundError, StorageError, UnreachableError: as that does, where it is no such part, or cannot be made again.
    """
    try:
        return live.artifacts.path(digest)
    except FoedusError as error:
        if error.code not in DAMAGED or not (found := _states_with(live, digest)):
            raise
        damage = error
    with _one:  # another thread may have mended it meanwhile
        if live.artifacts.has(digest) or any(_mend(live, run, part, digest) for run, part in found):
            return live.artifacts.path(digest)
    raise damage


def check_state(live: Live, run: RunRow) -> None:
    """Have every part of the run's state whole before something is begun with it.

    Raises:
        RunFailedError: ``state_lost`` where a part is damaged and cannot be made again.
        StorageError, UnreachableError: where the storage cannot be used at all.
    """
    for part, digest in run.parts.items():
        try:
            whole(live, digest)
        except FoedusError as error:
            if error.code not in DAMAGED:
                raise
            raise RunFailedError(
                "state_lost",
                f"The {part} of the run's state is damaged, and cannot be made again.",
                f"The blob {digest} is torn or gone, and so is some of what it was made of; the log says what.",
                f"Put blobs/{digest[:2]}/{digest[2:]} of a backup in its place, then `foedus run retry {run.id}`.",
            ) from error


def _states_with(live: Live, digest: str) -> list[tuple[RunRow, str]]:
    """The runs of whose state a blob is a part, each with the part's name."""
    with live.store.reading() as tx:
        rows = tx.execute(select(runs.c.id, runs.c.parts).where(runs.c.status.not_in(OVER))).all()
        where = [(row.id, part) for row in rows for part, kept in row.parts.items() if kept == digest]
        return [(find_run(tx, run), part) for run, part in where]


def _mend(live: Live, run: RunRow, part: str, digest: str) -> bool:
    """Make a part again; whether that came to the same bytes. It is told before the file is there: never in silence."""
    log.error("run %s: the %s of its state is damaged (blob %s); it is made again", run.id, part, digest)
    made = _made(live, run, part)
    try:
        if made is None or part not in made.files or hash_file(made.files[part]) != digest:
            STATES.labels("lost").inc()
            log.error("run %s: the %s of its state cannot be made again", run.id, part)
            return False
        reason = f"The {part} of its state was damaged where it is stored; it was made again, of {made.of}."
        with live.store.transaction("mend", scope=run.id) as tx:
            place: dict[str, Json] = {"round": made.round, "phase": made.phase}
            tell(tx, find_run(tx, run.id), "state_mended", time.time(), reason=reason, **place)
        live.artifacts.adopt(made.files[part], digest)
        STATES.labels("mended").inc()
        log.error("run %s: %s", run.id, reason)
        return True
    finally:
        for file in made.files.values() if made else ():
            file.unlink(missing_ok=True)


def _made(live: Live, run: RunRow, part: str) -> Made | None:
    """The redo of what made a part; None where it fails, which the log tells."""
    torch.set_num_threads(1)  # as drivers do: the bits depend on it
    with live.store.reading() as tx:
        record = phases.c.record.label("record")
        here = (steps.c.run_id == run.id, steps.c.part == part)
        step = tx.execute(select(steps, record).join(phases, of_phase(steps)).where(*here)).one_or_none()
    try:
        with live.artifacts.keeping():
            return _begun(live, run) if step is None else _stepped(live, run, step)
    except UnreachableError:
        raise
    except Exception:
        log.exception("run %s: what the %s of its state was made of is not all there", run.id, part)
        return None


def _begun(live: Live, run: RunRow) -> Made:
    """What a run begins with beside its initial model."""
    _, files = begin(live.strategy(run), live.artifacts.path(run.initial_model), live.artifacts.temporary)
    return Made({part: file for part, file in files.items() if part != MODEL}, "the initial model")


def _stepped(live: Live, run: RunRow, step: Row[Any]) -> Made:
    """What a phase made, of the state that it began with and the contributions that counted."""
    artifacts, receipts = live.artifacts, tuple(Receipt(**receipt) for receipt in step.record["receipts"])
    counted = [receipt for receipt in receipts if not receipt.failure]
    given = {each.client: Given(artifacts.path(each.digest) if each.digest else None, each.weights) for each in counted}
    order = PhaseOrder(step.round, step.phase, tuple(step.clients), step.attempt)
    parts = {part: artifacts.path(digest) for part, digest in step.parts.items()}
    closing = Closing(live.strategy(run), order, parts, step.data, given, receipts, step.factors)
    of = f"the {len(counted)} contributions to the phase {step.phase} of round {step.round}"
    return Made(fold_and_close(closing, artifacts.temporary).parts, of, step.round, step.phase)
