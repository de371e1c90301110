"""The driver's port on the database: every method is one transaction, and a redo after a crash gives the same bytes.

No fact of a run is kept here. What a phase has heard lies in ``phase_events`` in the order in which it was committed,
the deadline's tick among it, so that a driver that begins again hears the same and comes to the same place.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from sqlalchemy import Connection, insert, select, update

from foedus.coordinator import drawing
from foedus.coordinator.bells import CLIENTS, of_node, of_run
from foedus.coordinator.closing import Ending, came, settle, store
from foedus.coordinator.folding import MODEL, digest_of_model
from foedus.coordinator.hearing import Hearing
from foedus.coordinator.live import Live
from foedus.coordinator.mending import check_state
from foedus.coordinator.moves import fail_run, move_run, open_round, reach, stage_of
from foedus.coordinator.orders import (
    abandoned,
    add_assignments,
    assigned,
    close_assignments,
    key_of,
    matches,
    open_order,
    unanswered,
)
from foedus.coordinator.readiness import facts_of, needed, ready
from foedus.coordinator.run_rows import RunRow, find_run, spec_of, standing
from foedus.domain.facts import Facts
from foedus.domain.lifecycle import ACTIVE, RoundStage, RunStatus
from foedus.domain.round import PhaseOrder
from foedus.domain.spans import span
from foedus.domain.tree import State
from foedus.engine.driver import Progress
from foedus.schedules.schedule import Ask, Close, Draw, Event, WakeAt, no_answer
from foedus.store.tables import phase_events, phases, rounds, runs
from foedus.store.unit_of_work import notice
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
        check_state(self._live, run)
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

    def facts(self) -> Mapping[str, Facts]:
        """What the nodes of the ready clients have reported."""
        with self._live.store.reading() as tx:
            return facts_of(tx, ready(tx, self._active(tx)))

    def out(self) -> tuple[str, ...]:
        """Whose asks outlive the phase in which they were asked; waits as for the population."""
        self.population()
        with self._live.store.reading() as tx:
            return drawing.out(tx, self._run)

    def open(self, order: PhaseOrder, phase: Phase, state: State) -> None:
        """Store the order, its deadline and the assignments that the schedule begins with, as one."""
        self._check_state()
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
            if phase.schedule.carries:
                drawing.hear_waiting(tx, run.id, order)
            open_round(tx, run, order, RoundStage.TESTING if phase.optional else RoundStage.REPORTING, time.time())
            notice(tx, *map(of_node, nodes))

    def ask(self, order: PhaseOrder, clients: tuple[str, ...]) -> None:
        """Ask those that were not asked when the phase was opened."""
        with self._live.store.reading() as tx:
            known = {row.client for row in assigned(tx, self._run, order)}
        if missing := [client for client in clients if client not in known]:
            with self._writing("ask") as (tx, run):
                notice(tx, *map(of_node, add_assignments(tx, run.id, order, missing)))

    def draw(self, order: PhaseOrder, draw: Draw) -> None:
        """Choose among the idle and assign them, unless this draw was made before; an event tells whom."""
        with self._live.store.reading() as tx:
            run = self._active(tx)
            phase, found = self._live.phase(run), sorted(ready(tx, run))
        assert phase is not None, "only an open phase draws"
        wanted = drawing.Wanted(order, phase, draw, spec_of(run).seed, self._listen(order).now())
        with self._writing("draw") as (tx, run):
            nodes = drawing.draw_clients(tx, run.id, wanted, found)
            notice(tx, *map(of_node, nodes))

    def wake_at(self, order: PhaseOrder, at: float) -> None:
        """Set the alarm. A driver that begins again hears the same and sets it anew; a tick that came is an event."""
        self._listen(order).alarm = at

    def next_event(self, order: PhaseOrder) -> Event:
        """What was committed next, or the alarm's tick, which is committed before it is told."""
        hearing = self._listen(order)
        while not hearing.heard:
            self._rung.clear()
            with self._live.store.statements() as each:
                self._check(standing(each, self._run))
                if hearing.read(each, self._run):
                    break
            left = min(self._overdue(hearing), hearing.left(), RECHECK)
            if hearing.left() <= 0:
                self._tick(order, hearing.alarm or 0.0)
            elif left > 0:
                self._rung.wait(left)
        return hearing.tell()

    def close(self, order: PhaseOrder, phase: Phase, state: State, verdict: Close) -> State:
        """Fold the updates that count from their blobs, and store state, record and client states as one."""
        return self._end_phase(Ending(order, phase, verdict, self._listen(order).told))

    def untested(self, order: PhaseOrder, phase: Phase, state: State, reason: str) -> State:
        """Record that too few answered; the model stays as it is."""
        with self._live.store.reading() as tx:
            done = tuple(row.client for row in assigned(tx, self._run, order) if row.status == "done")
        return self._end_phase(Ending(order, phase, Close(done), self._listen(order).told, untested=True))

    def abandon(self, order: PhaseOrder, reason: str) -> tuple[str, ...]:
        """Give the attempt up; who still works for it is told so when it contributes."""
        with self._live.store.reading() as tx:
            phase = self._live.phase(self._active(tx))
            assert phase is not None, "only an open phase is abandoned"
            heard = came(tx, self._run, order, phase, frozenset())
        with self._writing("abandon_phase") as (tx, run):
            tx.execute(update(phases).where(*matches(phases, run.id, order)).values(status="abandoned", reason=reason))
            nodes = close_assignments(tx, run.id, order)
            reach(tx, run, order.round, RoundStage.ABANDONED, time.time(), reason=reason, phase=order.phase)
        self._live.bells.ring(*map(of_node, nodes))
        return heard.reasons

    def end_round(self, state: State) -> State:
        """Store the round's record; the model's blob stays."""
        number, run = round_of(state), self._check_state()
        with self._live.store.reading() as tx:
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
            drawing.end(tx, run.id)
            move_run(tx, run, RunStatus.COMPLETED, time.time(), stopped(State({}, run.data)))

    def fail(self, reason: str) -> None:
        """The run cannot go on by itself; what it has is kept, and it may be resumed."""
        with self._writing("fail_run") as (tx, run):
            fail_run(tx, run, round_of(State({}, run.data)), time.time(), reason)

    def _end_phase(self, ending: Ending) -> State:
        self._aggregate(ending.order)
        run = self._check_state()
        with span("round", round=ending.order.round, phase=ending.order.phase):
            settled = settle(self._live, run, ending)
        with self._writing("close_phase") as (tx, run):
            nodes = store(tx, run, ending, settled, self._live.artifacts)
        self._live.bells.ring(*map(of_node, nodes))
        return State({}, settled.data)

    def _check_state(self) -> RunRow:
        """The run, whose state is whole."""
        with self._live.store.reading() as tx:
            run = self._active(tx)
        check_state(self._live, run)
        return run

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

    def _listen(self, order: PhaseOrder) -> Hearing:
        if self._hearing is None or self._hearing.order != order:
            with self._live.store.reading() as tx:
                phase = self._live.phase(self._active(tx))
                opened = tx.execute(select(phases.c.opened_at).where(*matches(phases, self._run, order))).scalar_one()
            self._hearing = Hearing.of(order, opened, phase.schedule.patience if phase is not None else None)
        return self._hearing

    def _overdue(self, hearing: Hearing) -> float:
        """Give up asks that are out for too long; seconds until the next one is, none where some were."""
        if math.isinf(hearing.patience):
            return math.inf
        with self._live.store.reading() as tx:
            late, due = hearing.overdue(drawing.undone_asks(tx, self._run))
        if not late:
            return due
        with self._writing("give_up") as (tx, run):
            drawing.give_up(tx, run.id, hearing.order, late, no_answer(hearing.patience))
        return 0.0

    def _start(self) -> None:
        with self._live.store.reading() as tx:
            waiting = self._active(tx).status == RunStatus.WAITING
        if waiting:
            with self._writing("start_run") as (tx, run):
                move_run(tx, run, RunStatus.RUNNING, time.time())

    @contextmanager
    def _writing(self, name: str) -> Iterator[tuple[Connection, RunRow]]:
        """A transaction on the run, if it is still this driver's; who follows the run is told afterwards."""
        with self._live.store.transaction(name, scope=self._run) as tx:
            yield tx, self._active(tx)
            notice(tx, of_run(self._run))

    def _active(self, tx: Connection) -> RunRow:
        return self._check(find_run(tx, self._run))

    def _check(self, run: RunRow) -> RunRow:
        if self._live.bells.closed or run.status not in ACTIVE or run.epoch != self._epoch:
            raise Stopped
        return run
