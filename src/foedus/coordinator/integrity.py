"""Whether all that a coordinator keeps is there and whole: database, every blob that is needed, rounds, audit chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from foedus.coordinator.live import Live
from foedus.coordinator.mending import DAMAGED, whole
from foedus.coordinator.retention import needed
from foedus.domain.errors import FoedusError
from foedus.store import audit
from foedus.store.artifacts import Artifacts
from foedus.store.engines import is_postgres
from foedus.store.migrations import forward
from foedus.store.tables import blobs, rounds
from foedus.store.unit_of_work import Store
from foedus.wire.audit import AuditEntry, verify

PAGE = 500
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Checked:
    """What a check came to: how much was looked at, and what is wrong, a line each; ``mended``: blobs that were."""

    blobs: int
    bytes: int
    audit_entries: int
    problems: tuple[str, ...]
    mended: tuple[str, ...] = ()


def check(store: Store, artifacts: Artifacts, step: Step = lambda done, of: None) -> Checked:
    """Read everything once, beside a coordinator; spoiled blobs are set aside, and of live runs' states made again.

    Raises:
        StorageError, UnreachableError: where the database or the storage cannot be used at all.
    """
    problems: list[str] = []
    with store.reading() as tx:
        problems += _database(tx)
        problems += _rounds(tx)
        verdict = verify(_entries(tx))
        if verdict.broken is not None:
            problems.append(f"audit log: entry {verdict.broken} does not hold: {verdict.why}")
        elif verdict.head != audit.head(tx):
            problems.append("audit log: it does not end with its head")
        digests = needed(tx)
        named = set(tx.execute(select(blobs.c.digest).where(blobs.c.removing == 0)).scalars())
    problems += [f"blob {digest}: it is needed, and has no row" for digest in sorted(digests - named)]
    size, mended, live = 0, list[str](), Live(store, artifacts)
    for number, digest in enumerate(sorted(digests | named), 1):
        try:
            with artifacts.keeping():
                size += artifacts.path(digest).stat().st_size
        except FoedusError as error:
            if error.code in DAMAGED and _mended(live, digest):
                mended.append(digest)
            elif digest in digests:
                problems.append(f"blob {digest}: {error.code}")
        step(number, len(digests | named))
    return Checked(len(digests), size, verdict.entries, tuple(problems), tuple(mended))


def _mended(live: Live, digest: str) -> bool:
    """Whether a damaged blob is a part of a live run's state that could be made again."""
    try:
        whole(live, digest)
    except FoedusError:
        return False
    return True


def _database(tx: Connection) -> Iterator[str]:
    if lacking := forward.pending(tx):
        yield f"database: it lacks the revisions {', '.join(each.id for each in lacking)}"
    if not is_postgres(tx):
        for (line,) in tx.execute(text("PRAGMA integrity_check(20)")):
            if line != "ok":
                yield f"database: {line}"


def _rounds(tx: Connection) -> Iterator[str]:
    """The rounds of a run are counted from 0, without a gap."""
    counted = select(rounds.c.run_id, func.count(), func.min(rounds.c.round), func.max(rounds.c.round))
    for run, count, first, last in tx.execute(counted.group_by(rounds.c.run_id)):
        if (first, last) != (0, count - 1):
            yield f"run {run}: its {count} rounds go from {first} to {last}"


def _entries(tx: Connection) -> Iterator[AuditEntry]:
    last = 0
    while page := audit.entries(tx, last, PAGE, None):
        yield from page
        last = page[-1].seq
