"""Which blobs are needed, and the removal of the others: garbage is collected off the hot path, by rules.

Needed are: the plan, alignment, initial model and state of every run, the model of every round of every run, what open
phases broadcast, and updates until they are aggregated and the state that they made is no run's any more (it can be
made again of them, should its file be damaged: :mod:`foedus.coordinator.mending`), or for ever where the run keeps them
(``trainer.delete_local_models_after_aggregation = false``). What nothing needs goes once nobody named it for a while;
spent updates go soon.

A blob goes in three steps, each of which may be the last before a crash: its row is marked, which no transaction that
names it can overlap (see :func:`foedus.coordinator.blob_rows.name_blobs`); the bytes are deleted after that commit; the
row is forgotten. The next collection goes on with what is marked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from foedus.coordinator.blob_rows import parts_of
from foedus.coordinator.lineage import keeps_updates
from foedus.coordinator.orders import ONGOING, PHASE_OF, of_phase
from foedus.domain.errors import StorageError
from foedus.domain.lifecycle import OVER
from foedus.domain.run import parse_spec
from foedus.store.artifacts import Artifacts
from foedus.store.blobs import blob_owners, upload_parts
from foedus.store.progress import progress
from foedus.store.tables import assignments, blobs, idempotency, phase_events, phases, rounds, runs, steps, uploads
from foedus.store.unit_of_work import Store

SPENT = 60.0
"""Seconds for which an update stays after it was aggregated; clocks of replicas may differ by so much."""

DAY = 86_400.0
UPLOAD_DAYS = 7
"""Days after which an unfinished upload is removed, and what a request was answered is forgotten."""

PROGRESS_DAYS = 30
"""Days after a run's end for which it is kept how its work went."""

BATCH = 500


@dataclass(frozen=True)
class Collected:
    """What a collection removed. ``listed``: whether the storage could be searched for what no row names."""

    blobs: int = 0
    bytes: int = 0
    uploads: int = 0
    parts: int = 0
    listed: bool = True


def needed(tx: Connection) -> set[str]:
    """The digest of every blob that something refers to."""
    found = set(tx.execute(select(rounds.c.model_blob)).scalars())
    for row in tx.execute(select(runs.c.plan_blob, runs.c.initial_model, runs.c.alignment, runs.c.parts)):
        found |= {digest for digest in (row.plan_blob, row.initial_model, row.alignment) if digest}
        found |= set(row.parts.values())
    carried = (
        select(assignments.c.id).where(PHASE_OF, assignments.c.carries == 1, assignments.c.heard.is_(None)).exists()
    )
    for broadcast in tx.execute(select(phases.c.broadcast).where(or_(phases.c.status.in_(ONGOING), carried))).scalars():
        found |= set(broadcast.values())
    return found | _needed_updates(tx) | _needed_to_mend(tx)


def _needed_updates(tx: Connection) -> set[str]:
    """Updates that are not aggregated yet, and those of runs that keep them."""
    keeping = [row.id for row in tx.execute(select(runs.c.id, runs.c.spec)) if keeps_updates(parse_spec(row.spec))]
    kept = select(assignments.c.update).select_from(assignments).join(blobs, blobs.c.digest == assignments.c.update)
    live = kept.join(runs, runs.c.id == assignments.c.run_id).where(runs.c.status.not_in(OVER))
    heard = live.join(phase_events, phase_events.c.seq == assignments.c.heard).join(phases, of_phase(phase_events))
    queries = [
        live.join(phases, PHASE_OF).where(assignments.c.carries == 0, phases.c.status.in_(ONGOING)),
        live.where(assignments.c.carries == 1, assignments.c.heard.is_(None)),
        heard.where(assignments.c.carries == 1, phases.c.status.in_(ONGOING)),
        *(kept.where(assignments.c.run_id.in_(batch)) for batch in _batches(keeping)),
    ]
    return {digest for query in queries for digest in tx.execute(query).scalars()}


def _needed_to_mend(tx: Connection) -> set[str]:
    """Of what the state of each run that may go on was made, last: a state before, and the updates that counted."""
    found: set[str] = set()
    last = select(steps.c.parts, phases.c.record).join(phases, of_phase(steps)).join(runs, runs.c.id == steps.c.run_id)
    for row in tx.execute(last.where(runs.c.status.not_in(OVER))):
        counted = {receipt["digest"] for receipt in row.record["receipts"] if not receipt["failure"]}
        found |= {*row.parts.values(), *counted}
    return found - {""}


def collect(store: Store, artifacts: Artifacts, grace: float, now: float | None = None) -> Collected:
    """Remove what nothing needs and nobody named for ``grace`` seconds; what is in the middle of it stays whole.

    Raises:
        StorageError, UnreachableError: of the database or the storage; what was removed until then is.
    """
    now = time.time() if now is None else now
    stale = _stale_uploads(store, artifacts, now)
    strays, listed = _strays(store, artifacts, now - grace)
    _mark(store, strays, now - grace, now)
    removed, size = _remove(store, artifacts)
    parts = _stray_parts(store, artifacts, now - grace) if listed else 0
    try:
        artifacts.tidy(now - DAY)
    except StorageError:
        listed = False
    return Collected(removed, size, stale, parts, listed)


def _strays(store: Store, artifacts: Artifacts, before: float) -> tuple[list[str], bool]:
    """What is stored and has no row: a process was killed in between, or a transaction was rolled back."""
    try:
        stored = [digest for digest, put_at in artifacts.kept() if put_at < before]
    except StorageError:
        return [], False
    known: set[str] = set()
    with store.reading() as tx:
        for batch in _batches(stored):
            known |= set(tx.execute(select(blobs.c.digest).where(blobs.c.digest.in_(batch))).scalars())
    return [digest for digest in stored if digest not in known], True


def _mark(store: Store, strays: list[str], before: float, now: float) -> None:
    with store.reading() as tx:
        keep, spent = needed(tx), set(tx.execute(select(assignments.c.update).distinct()).scalars())
        rows = tx.execute(select(blobs.c.digest, blobs.c.used_at).where(blobs.c.removing == 0)).all()
    gone = [
        row.digest
        for row in rows
        if row.digest not in keep and row.used_at < (now - SPENT if row.digest in spent else before)
    ]
    for batch in _batches(gone):
        with store.transaction("gc_mark") as tx:  # without a scope: nobody names anything meanwhile
            unused = (blobs.c.digest.in_(batch), blobs.c.used_at < max(before, now - SPENT))
            tx.execute(update(blobs).where(*unused).values(removing=1))
    for batch in _batches(strays):
        with store.transaction("gc_mark") as tx:
            known = set(tx.execute(select(blobs.c.digest).where(blobs.c.digest.in_(batch))).scalars())
            values = {"size": 0, "created_at": now, "used_at": now, "removing": 1}
            if fresh := [{"digest": digest, **values} for digest in batch if digest not in known]:
                tx.execute(insert(blobs), fresh)


def _remove(store: Store, artifacts: Artifacts) -> tuple[int, int]:
    """Delete the bytes of what is marked, then forget it; how many, and how large they were."""
    with store.reading() as tx:
        marked = tx.execute(select(blobs.c.digest, blobs.c.size).where(blobs.c.removing == 1)).all()
    for batch in _batches([row.digest for row in marked]):
        for digest in batch:
            artifacts.remove(digest)
        with store.transaction("gc_forget") as tx:
            tx.execute(delete(blob_owners).where(blob_owners.c.digest.in_(batch)))
            tx.execute(delete(blobs).where(blobs.c.digest.in_(batch), blobs.c.removing == 1))
    return len(marked), sum(row.size for row in marked)


def _stale_uploads(store: Store, artifacts: Artifacts, now: float) -> int:
    """Forget uploads that nobody went on with, old answers to requests, and how the work of old runs went."""
    before = now - UPLOAD_DAYS * DAY
    over = select(runs.c.id).where(runs.c.status.in_(OVER), runs.c.updated_at < now - PROGRESS_DAYS * DAY)
    old = uploads.c.created_at < before
    with store.reading() as tx:
        stale = list(tx.execute(select(uploads.c.id).where(old)).scalars())
        answered = tx.execute(select(func.count()).select_from(idempotency).where(idempotency.c.created_at < before))
        told = tx.execute(select(progress.c.seq).where(progress.c.run_id.in_(over)).limit(1)).first()
        forget = bool(stale) or answered.scalar_one() > 0 or told is not None
    if not forget:
        return 0
    with store.transaction("gc_uploads") as tx:
        parts = [part for upload in stale for part in parts_of(tx, upload)]
        for batch in _batches(stale):
            tx.execute(delete(upload_parts).where(upload_parts.c.upload.in_(batch)))
            tx.execute(delete(uploads).where(uploads.c.id.in_(batch)))
        tx.execute(delete(idempotency).where(idempotency.c.created_at < before))
        tx.execute(delete(progress).where(progress.c.run_id.in_(over)))
    artifacts.drop_parts(parts)
    return len(stale)


def _stray_parts(store: Store, artifacts: Artifacts, before: float) -> int:
    """Remove parts of uploads that no row names."""
    old = [part for part, put_at in artifacts.kept_parts() if put_at < before]
    with store.reading() as tx:
        known = set(tx.execute(select(upload_parts.c.part)).scalars())
    strays = [part for part in old if part not in known]
    artifacts.drop_parts(strays)
    return len(strays)


def _batches(each: Iterable[str]) -> Iterator[list[str]]:
    items = list(each)
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
