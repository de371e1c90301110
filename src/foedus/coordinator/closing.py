"""How a phase ends: what came of it, the fold and the step from blobs on disk, and its rows, all in one transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, select, update

from foedus.coordinator import drawing
from foedus.coordinator.blob_rows import name_blobs
from foedus.coordinator.folding import Closing, Given, fold_and_close
from foedus.coordinator.live import Live
from foedus.coordinator.mending import remember
from foedus.coordinator.orders import Answers, answers, close_assignments, make_current, matches
from foedus.coordinator.run_rows import RunRow
from foedus.domain.errors import FoedusError, RunFailedError, UnreachableError
from foedus.domain.plain import Json
from foedus.domain.round import PhaseOrder, PhaseRecord
from foedus.schedules.schedule import Close
from foedus.store.artifacts import Artifacts, hash_file
from foedus.store.tables import phases, runs
from foedus.strategies.strategy import Phase


@dataclass(frozen=True)
class Ending:
    """A phase that ends over those whom its schedule counts, or untested; ``told`` is the last event that it heard."""

    order: PhaseOrder
    phase: Phase
    verdict: Close
    told: int
    untested: bool = False


@dataclass(frozen=True)
class Settled:
    """What a phase came to, computed and on disk: the record, the state's parts and data, and of what."""

    record: PhaseRecord
    digests: Mapping[str, str]
    data: Mapping[str, Json]
    closing: Closing


def came(tx: Connection, run: str, order: PhaseOrder, phase: Phase, counted: frozenset[str]) -> Answers:
    """What came of a phase that counts these clients."""
    if phase.schedule.draws:
        return drawing.drawn_answers(tx, run, order, counted, carries=phase.schedule.carries)
    return answers(tx, run, order, counted)


def settle(live: Live, run: RunRow, ending: Ending) -> Settled:
    """Fold what counts and take the step. A redo gives the same bytes.

    Raises:
        RunFailedError: ``aggregation_failed``, with what was wrong.
        UnreachableError: where the database or the storage is away; then it is done again.
    """
    order, artifacts = ending.order, live.artifacts
    with live.store.reading() as tx:
        found = came(tx, run.id, order, ending.phase, frozenset(ending.verdict.clients))
        asked = drawing.asked_in(tx, run.id, order) if ending.phase.schedule.draws else order.clients
        broadcast = tx.execute(select(phases.c.broadcast).where(*matches(phases, run.id, order))).scalar_one()
    try:
        with artifacts.keeping():
            closing = _closing(live, run, ending, found)
            closed = fold_and_close(closing, artifacts.temporary)
    except UnreachableError:  # nothing is wrong with what was sent
        raise
    except Exception as error:
        raise _aggregation_failed(order, error) from error
    digests = dict(run.parts)
    for part, file in closed.parts.items():
        digests[part] = hash_file(file)
        artifacts.adopt(file, digests[part])
    down = sum(artifacts.size(digest) for digest in broadcast.values()) * len(asked)
    outcome = "untested" if ending.untested else "closed"
    record = replace(closed.record, asked=asked, bytes_down=down, outcome=outcome)
    return Settled(record, digests, closed.data, closing)


def store(tx: Connection, run: RunRow, ending: Ending, settled: Settled, artifacts: Artifacts) -> set[str]:
    """The rows of a phase that has ended: its record, the run's state, and the client states that counted.

    Returns the nodes that are still at work for it: they are told to stop.
    """
    order, record, now = ending.order, settled.record, time.time()
    closed = {"status": "closed", "record": asdict(record)}
    tx.execute(update(phases).where(*matches(phases, run.id, order)).values(**closed))
    state = {"parts": dict(settled.digests), "data": dict(settled.data), "updated_at": now}
    tx.execute(update(runs).where(runs.c.id == run.id).values(**state))
    name_blobs(tx, artifacts, settled.digests.values())
    remember(tx, run, settled.closing, settled.digests)
    if not ending.untested:
        make_current(tx, run.id, order, [receipt for receipt in record.receipts if not receipt.failure])
    if ending.phase.schedule.carries:
        drawing.unhear(tx, run.id, order, ending.told)
    return close_assignments(tx, run.id, order)


def _closing(live: Live, run: RunRow, ending: Ending, found: Answers) -> Closing:
    parts = {part: live.artifacts.path(digest) for part, digest in run.parts.items()}
    given = {} if ending.untested else _given(live.artifacts, found)
    order, verdict = ending.order, ending.verdict
    if ending.phase.schedule.draws:
        order = replace(order, clients=verdict.clients)
    factors = dict(zip(verdict.clients, verdict.factors, strict=True)) if verdict.factors else {}
    return Closing(live.strategy(run), order, parts, run.data, given, found.receipts, factors)


def _given(artifacts: Artifacts, found: Answers) -> dict[str, Given]:
    return {
        receipt.client: Given(
            artifacts.path(found.updates[receipt.client]) if receipt.client in found.updates else None, receipt.weights
        )
        for receipt in found.counted
    }


def _aggregation_failed(order: PhaseOrder, error: Exception) -> RunFailedError:
    why = f"{error.code}: {error}" if isinstance(error, FoedusError) else f"{type(error).__name__}: {error}"
    return RunFailedError(
        "aggregation_failed",
        f"The contributions to the phase {order.phase} of round {order.round} could not be aggregated.",
        why,
        "Mend that, then `foedus run retry` aggregates them anew.",
    )
