"""The driver's port on the database: every method is one transaction, and a redo after a crash gives the same bytes.

No fact of a run is kept here. What a phase has heard lies in ``phase_events`` in the order in which it was committed,
the deadline's tick among it, so that a driver that begins again hears the same and comes to the same place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Any, Self

from sqlalchemy import Connection, insert, select, update

from foedus.coordinator.aggregating import aggregate
from foedus.coordinator.bells import CLIENTS, of_node, of_run
from foedus.coordinator.folding import MODEL, digest_of_model
from foedus.coordinator.hearing import Hearing
from foedus.coordinator.live import Live, RunRow, find_run, name_blob, not_live, spec_of
from foedus.coordinator.moves import fail_run, move_run, open_round, reach, stage_of
from foedus.coordinator.orders import (
    abandoned,
    add_assignments,
    answers,
    assigned,
    close_assignments,
    key_of,
    make_current,
    matches,
    open_order,
    unanswered,
)
from foedus.coordinator.readiness import needed, ready
from foedus.domain.lifecycle import ACTIVE, RoundStage, RunStatus
from foedus.domain.plain import Json
from foedus.domain.round import PhaseOrder, PhaseRecord, Receipt
from foedus.domain.tree import State
from foedus.engine.driver import Progress
from foedus.schedules.schedule import Ask, Close, Draw, Event, WakeAt
from foedus.store.artifacts import hash_file
from foedus.store.tables import phase_events, phases, rounds, runs
from foedus.strategies.stopping import stopped
from foedus.strategies.strategy import Phase, round_of

RECHECK = 30.0
"""Seconds after which a driver looks again though no bell rang."""


class Stopped(Exception):
    """The run was ended or taken up by another driver, or this process is about to end."""


class LivePort:
    """One run, for one driver; ``epoch`` is the run's, so that a driver of before a resumption writes nothing."""

    def __init__(self, live: Live, run: str, epoch: int) -> None:
        self._live = live
        self._run = run
        self._epoch = epoch
        self._rung = threading.Event()
        self._stack = ExitStack()
        self._hearing: Hearing | None = None

    def __enter__(self) -> Self:
        for bell in (of_run(self._run), CLIENTS):
            self._stack.enter_context(self._live.bells.listening(bell, self._rung.set))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def load(self) -> Progress:
        """The run's row, and the order that is open."""
        with self._live.store.reading() as tx:
            run = self._active(tx)
            order = open_order(tx, run.id)
            phase = self._live.phase(run)
            attempt = abandoned(tx, run.id, round_of(State({}, run.data)), phase.name) if phase is not None else 0
        if order is not None:
            self._start()
        return Progress(State({}, run.data), order, attempt)

    def population(self) -> tuple[str, ...]:
        """The clients that are ready; the run waits until there are as many as it needs, and then is running."""
        while True:
            self._rung.clear()
            with self._live.store.reading() as tx:
                run = self._active(tx)
                found = ready(tx, run)
            if len(found) >= needed(spec_of(run)):
                self._start()
                return tuple(sorted(found))
            self._rung.wait(RECHECK)

    def out(self) -> tuple[str, ...]:
        """Nobody: an assignment ends with its phase."""
        return ()

    def open(self, order: PhaseOrder, phase: Phase, state: State) -> None:
        """Store the order, its deadline and the assignments that the schedule begins with, as one."""
        _, commands = phase.schedule.init(order.clients)
        deadline = next((command.at for command in commands if isinstance(command, WakeAt)), None)
        asked = [client for command in commands if isinstance(command, Ask) for client in command.clients]
        with self._writing("open_phase") as (tx, run):
            row = {
                **key_of(run.id, order),
                "clients": list(order.clients),
                "status": "open",
                "opened_at": time.time(),
                "deadline": deadline,
                "broadcast": {part: run.parts[part] for part in phase.broadcast},
            }
            tx.execute(insert(phases).values(**row))
            nodes = add_assignments(tx, run.id, order, asked)
            open_round(tx, run, order, RoundStage.TESTING if phase.optional else RoundStage.REPORTING, time.time())
        self._live.bells.ring(*map(of_node, nodes))

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        """Ask those that were not asked when the phase was opened."""
        with self._live.store.reading() as tx:
            known = {row.client for row in assigned(tx, self._run, order)}
        if missing := [client for client in clients if client not in known]:
            with self._writing("ask") as (tx, run):
                nodes = add_assignments(tx, run.id, order, missing)
            self._live.bells.ring(*map(of_node, nodes))

    def draw(self, order: PhaseOrder, draw: Draw) -> None:
        """Live phases ask cohorts that were planned."""
        raise not_live("that draws clients")

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        """Store the deadline, unless it is the one that the phase was opened with."""
        with self._live.store.reading() as tx:
            known = tx.execute(select(phases.c.deadline).where(*matches(phases, self._run, order))).scalar()
        if known != at:
            with self._writing("wake_at") as (tx, run):
                tx.execute(update(phases).where(*matches(phases, run.id, order)).values(deadline=at))
            if self._hearing is not None:
                self._hearing.deadline = at

    def next_event(self, order: PhaseOrder) -> Event:
        """What was committed next, or the deadline's tick, which is committed before it is told."""
        if self._hearing is None or self._hearing.order != order:
            self._hearing = self._begin_hearing(order)
        hearing = self._hearing
        while not hearing.events:
            self._rung.clear()
            with self._live.store.reading() as tx:
                self._active(tx)
                hearing.read(tx, self._run)
            left = hearing.left()
            if hearing.events:
                break
            if left <= 0:
                self._tick(order, hearing.deadline or 0.0)
            else:
                self._rung.wait(min(left, RECHECK))
        return hearing.events.popleft()

    def close(self, order: PhaseOrder, phase: Phase, state: State, verdict: Close) -> State:
        """Fold the updates that count from their blobs, and store state, record and client states as one."""
        return self._end_phase(order, frozenset(verdict.clients))

    def untested(self, order: PhaseOrder, phase: Phase, state: State, reason: str) -> State:
        """Record that too few answered; the model stays as it is."""
        with self._live.store.reading() as tx:
            done = frozenset(row.client for row in assigned(tx, self._run, order) if row.status == "done")
        return self._end_phase(order, done, untested=True)

    def abandon(self, order: PhaseOrder, reason: str) -> tuple[str, ...]:
        """Give the attempt up; who still works for it is told so when it contributes."""
        with self._live.store.reading() as tx:
            receipts = [Receipt(**row.receipt) for row in assigned(tx, self._run, order) if row.receipt is not None]
        with self._writing("abandon_phase") as (tx, run):
            tx.execute(update(phases).where(*matches(phases, run.id, order)).values(status="abandoned", reason=reason))
            close_assignments(tx, run.id, order)
            reach(tx, run, order.round, RoundStage.ABANDONED, time.time(), reason=reason, phase=order.phase)
        return tuple(f"{receipt.client}: {receipt.failure}" for receipt in receipts if receipt.failure)

    def end_round(self, state: State) -> State:
        """Store the round's record; the model's blob stays."""
        number = round_of(state)
        with self._live.store.reading() as tx:
            run = self._active(tx)
            here = (phases.c.run_id == run.id, phases.c.round == number, phases.c.status == "closed")
            rows = tx.execute(select(phases).where(*here).order_by(phases.c.opened_at)).all()
        digest = digest_of_model(self._live.artifacts.path(run.parts[MODEL]))
        now, records = time.time(), [row.record for row in rows]
        metrics = {f"{r['phase']}/{name}": value for r in records for name, value in r["metrics"].items()}
        after = self._live.strategy(run).end(State({}, run.data), metrics)
        summary = {"round": number, "model": digest, "seconds": max(0.0, now - rows[0].opened_at), "metrics": metrics}
        with self._writing("commit_round") as (tx, run):
            row = {"run_id": run.id, "round": number, "model_digest": digest, "model_blob": run.parts[MODEL]}
            tx.execute(insert(rounds).values(**row, record={**summary, "phases": records}))
            tx.execute(update(runs).where(runs.c.id == run.id).values(data=dict(after.data), updated_at=now))
            moved = {way: sum(record[way] for record in records) for way in ("bytes_down", "bytes_up")}
            told: dict[str, Any] = {"metrics": metrics, "seconds": summary["seconds"], "model_digest": digest, **moved}
            reach(tx, run, number, RoundStage.COMMITTED, now, **told)
        return after

    def finish(self) -> None:
        """The last round was committed, or the one after which the run stops early."""
        self._start()
        with self._writing("complete_run") as (tx, run):
            move_run(tx, run, RunStatus.COMPLETED, time.time(), stopped(State({}, run.data)))

    def fail(self, reason: str) -> None:
        """The run cannot go on by itself; what it has is kept, and it may be resumed."""
        with self._writing("fail_run") as (tx, run):
            fail_run(tx, run, round_of(State({}, run.data)), time.time(), reason)

    def _end_phase(self, order: PhaseOrder, counted: frozenset[str], *, untested: bool = False) -> State:
        self._aggregate(order)
        artifacts = self._live.artifacts
        with self._live.store.reading() as tx:
            run = self._active(tx)
            found = answers(tx, run.id, order, counted)
            broadcast = tx.execute(select(phases.c.broadcast).where(*matches(phases, run.id, order))).scalar_one()
        closed = aggregate(self._live, run, order, found, untested=untested)
        digests = dict(run.parts)
        for part, file in closed.parts.items():
            digests[part] = hash_file(file)
            artifacts.adopt(file, digests[part])
        down = sum(artifacts.size(digest) for digest in broadcast.values()) * len(order.clients)
        record = replace(closed.record, bytes_down=down, outcome="untested" if untested else "closed")
        self._store_phase(order, record, digests, closed.data)
        return State({}, closed.data)

    def _store_phase(
        self, order: PhaseOrder, record: PhaseRecord, digests: Mapping[str, str], data: Mapping[str, Json]
    ) -> None:
        now, sizes = time.time(), {digest: self._live.artifacts.size(digest) for digest in digests.values()}
        counted = [receipt for receipt in record.receipts if not receipt.failure]
        with self._writing("close_phase") as (tx, run):
            closed = {"status": "closed", "record": asdict(record)}
            tx.execute(update(phases).where(*matches(phases, run.id, order)).values(**closed))
            tx.execute(
                update(runs).where(runs.c.id == run.id).values(parts=dict(digests), data=dict(data), updated_at=now)
            )
            for digest, size in sizes.items():
                name_blob(tx, digest, size, now)
            if record.outcome != "untested":
                make_current(tx, run.id, order, counted)
            close_assignments(tx, run.id, order)

    def _aggregate(self, order: PhaseOrder) -> None:
        """From here on a contribution is told that it is late, and not that it counts."""
        with self._live.store.reading() as tx:
            reporting = stage_of(tx, self._run, order.round) is RoundStage.REPORTING
            late = unanswered(tx, self._run, order)
        if reporting or late:
            with self._writing("closing") as (tx, run):
                tx.execute(update(phases).where(*matches(phases, run.id, order)).values(status="closing"))
                if reporting:
                    reach(tx, run, order.round, RoundStage.AGGREGATING, time.time(), phase=order.phase)

    def _tick(self, order: PhaseOrder, deadline: float) -> None:
        with self._writing("tick") as (tx, run):
            tx.execute(insert(phase_events).values(**key_of(run.id, order), kind="tick", client="", at=deadline))

    def _begin_hearing(self, order: PhaseOrder) -> Hearing:
        with self._live.store.reading() as tx:
            phase = tx.execute(select(phases).where(*matches(phases, self._run, order))).one()
        gone = max(0.0, time.time() - phase.opened_at)
        return Hearing(order, phase.deadline, time.monotonic() - gone)

    def _start(self) -> None:
        with self._live.store.reading() as tx:
            waiting = self._active(tx).status == RunStatus.WAITING
        if waiting:
            with self._writing("start_run") as (tx, run):
                move_run(tx, run, RunStatus.RUNNING, time.time())

    @contextmanager
    def _writing(self, name: str) -> Iterator[tuple[Connection, RunRow]]:
        """A transaction on the run, if it is still this driver's; who follows the run is told afterwards."""
        with self._live.store.transaction(name) as tx:
            yield tx, self._active(tx)
        self._live.bells.ring(of_run(self._run))

    def _active(self, tx: Connection) -> RunRow:
        run = find_run(tx, self._run)
        if self._live.bells.closed or run.status not in ACTIVE or run.epoch != self._epoch:
            raise Stopped
        return run
