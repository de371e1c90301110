"""What must hold after every commit, whatever happened before: I1, I2, I6, I7, I8, and that nothing is forgotten."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select

from foedus.store.artifacts import Artifacts, hash_file
from foedus.store.audit import entries, head
from foedus.store.tables import assignments, blobs, phase_events, phases, rounds, runs
from foedus.store.unit_of_work import Store
from foedus.wire.audit import GENESIS, AuditHead, verify

_KEY = [phase_events.c[name] for name in ("run_id", "round", "phase", "attempt", "client")]
SAID = select(*_KEY).where(phase_events.c.kind.in_(("reported", "failed")))
CLOSED = select(phases).where(phases.c.status == "closed")
DONE = select(assignments).where(assignments.c.status == "done")
ROUNDS = select(rounds.c.run_id, rounds.c.round, rounds.c.model_digest, rounds.c.model_blob)
RUNS = select(runs.c.plan_blob, runs.c.parts)
BLOBS = select(blobs.c.digest)

NOTHING = AuditHead(seq=0, hash=GENESIS)


@dataclass
class Laws:
    """What was seen so far.

    ``models`` are the digests of the undisturbed run, by round; without them what a model has to be is not known.
    ``collected``: garbage was, and so updates that were aggregated may be gone.
    """

    models: Mapping[int, str] = field(default_factory=dict)
    collected: bool = False
    rounds: dict[str, dict[int, str]] = field(default_factory=dict)
    counted: dict[tuple[Any, ...], str] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    audited: AuditHead = NOTHING

    def check(self, store: Store, artifacts: Artifacts) -> None:
        """Hold the database and the blobs against the laws."""
        with store.reading() as tx:
            self._each_contributes_once(tx)
            self._nothing_counted_is_lost(tx)
            self._rounds_are_the_undisturbed_ones(tx)
            self._no_blob_is_missing(tx, artifacts)
            self._the_audit_log_is_a_chain(tx)

    def _each_contributes_once(self, tx: Connection) -> None:
        """I1: one answer of a client for each phase that was tried, and one attempt of a phase that was closed."""
        said = Counter(tuple(row) for row in tx.execute(SAID))
        assert not said or max(said.values()) == 1, f"I1: counted twice: {said.most_common(1)}"
        closed = Counter((row.run_id, row.round, row.phase) for row in tx.execute(CLOSED))
        assert not closed or max(closed.values()) == 1, f"I1: a phase was closed twice: {closed.most_common(1)}"

    def _nothing_counted_is_lost(self, tx: Connection) -> None:
        """What was once recorded as contributed stays as it is, and is in the record of its phase when that closes."""
        now = {_key(row): row.update or "" for row in tx.execute(DONE)}
        for key, update in self.counted.items():
            assert now.get(key) == update, f"a contribution was changed or lost: {key}"
        self.counted = now
        for row in tx.execute(CLOSED):
            kept = {
                receipt["client"]: receipt["digest"] for receipt in row.record["receipts"] if not receipt["failure"]
            }
            for client in row.clients:
                came = now.get((row.run_id, row.round, row.phase, row.attempt, client))
                assert came is None or kept.get(client, came) == came, f"the record has another update of {client}"

    def _rounds_are_the_undisturbed_ones(self, tx: Connection) -> None:
        """I2 and I8: rounds without gaps, never changed, and each model that of its redo."""
        found: dict[str, dict[int, str]] = defaultdict(dict)
        for row in tx.execute(ROUNDS):
            found[row.run_id][row.round] = row.model_digest
        for run, before in self.rounds.items():
            assert found[run].items() >= before.items(), "I8: a committed round was changed"
        for run, models in found.items():
            assert sorted(models) == list(range(len(models))), f"I8: rounds {sorted(models)}"
            for number in models.keys() - self.rounds.get(run, {}).keys():
                assert models[number] == self.models.get(number, models[number]), f"I2: round {number} is another"
        self.rounds = found

    def _no_blob_is_missing(self, tx: Connection, artifacts: Artifacts) -> None:
        """I7: what a row names is there; what is seen for the first time is read to its end."""
        named = set(tx.execute(BLOBS).scalars()) | {row.model_blob for row in tx.execute(ROUNDS)}
        if not self.collected:
            named |= {row.update for row in tx.execute(DONE) if row.update is not None}
        for row in tx.execute(RUNS):
            named |= {row.plan_blob, *row.parts.values()}
        for digest in named:
            if digest in self.whole:
                assert artifacts.has(digest), f"I7: the blob {digest} is gone"
            else:
                assert hash_file(artifacts.path(digest)) == digest, f"I7: the blob {digest} has other bytes"
        self.whole |= named

    def _the_audit_log_is_a_chain(self, tx: Connection) -> None:
        """I6: it only grows, and every entry follows the one before."""
        while found := entries(tx, self.audited.seq, 1000, None):
            verdict = verify(found, start=self.audited)
            assert verdict.broken is None, f"I6: entry {verdict.broken} of the audit log: {verdict.why}"
            self.audited = verdict.head
        assert self.audited == head(tx), "I6: the audit log does not end with its head"


def _key(row: Row[Any]) -> tuple[Any, ...]:
    return row.run_id, row.round, row.phase, row.attempt, row.client
