"""A driver thread for every run that this replica leads. Start-up is recovery: it begins where the rows say.

Replicas lead runs by leases (:mod:`foedus.store.leaders`), which each renews as long as it is well; when one is silent
for longer than its lease, another takes its runs over, and its own drivers are refused from then on. A driver that
meets an error of the database or the disk has failed nothing: the run is claimed anew, and goes on when they are back.
"""

from __future__ import annotations

import logging
import threading

import torch

from foedus.coordinator.bells import RUNS, of_node
from foedus.coordinator.live import Live
from foedus.coordinator.rounds import LivePort, Stopped
from foedus.coordinator.run_rows import find_run, spec_of
from foedus.coordinator.runs import followers
from foedus.domain.errors import FoedusError, StorageError, UnreachableError
from foedus.domain.lifecycle import ACTIVE
from foedus.domain.spans import concerning
from foedus.engine.driver import drive
from foedus.store import leaders
from foedus.store.unit_of_work import notice

RESCAN = 30.0
"""Seconds after which an embedded coordinator looks for runs without a driver though no bell rang."""

AGAIN = 2.0
"""Seconds until a driver is started again that has ended before its run."""

BEATS = 4
"""Renewals within a lease: so many times it may fail, or be late, before others take over."""

JOIN = 30.0
AWAY = (StorageError, UnreachableError)
"""Errors of the database or the disk, which are not the run's."""

log = logging.getLogger("foedus.coordinator")


class Supervisor:
    """Starts and stops the drivers. ``replica`` is this process's own name; ``lease`` is in seconds."""

    def __init__(self, live: Live, replica: str = "embedded", lease: float = 6.0) -> None:
        self._live = live
        self._replica = replica
        self._lease = lease
        self._alone = not live.store.shared
        self._rung = threading.Event()
        self._manager = threading.Thread(target=self._manage, name="runs", daemon=True)
        self._stopping = threading.Event()
        self._drivers: dict[str, tuple[int, threading.Thread]] = {}

    def start(self) -> None:
        """Begin, with what the database says is unfinished."""
        self._manager.start()

    def stop(self) -> None:
        """End every driver at its next look; what they do not finish is taken up by others, or at the next start."""
        self._live.bells.close()
        self._stopping.set()
        self._rung.set()
        self._manager.join(JOIN)
        for _, thread in list(self._drivers.values()):
            thread.join(JOIN)
        if not self._alone:
            self._leave()

    def _leave(self) -> None:
        try:
            with self._live.store.transaction("leave", scope=self._replica) as tx:
                leaders.release(tx, self._replica)
                notice(tx, RUNS)
        except FoedusError as error:
            log.warning("runs are left to others when the lease ends: %s", error)

    def _manage(self) -> None:
        beat = RESCAN if self._alone else self._lease / BEATS
        with self._live.bells.listening(RUNS, self._rung.set):
            while not self._live.bells.closed:
                self._rung.clear()
                wait = beat
                try:
                    self._start_drivers()
                except FoedusError as error:
                    log.error("runs cannot be looked for: %s", error)
                    wait = min(AGAIN, beat)
                except Exception:
                    log.exception("runs cannot be looked for")
                    wait = min(AGAIN, beat)
                if not self._live.bells.closed:
                    self._rung.wait(wait)

    def _start_drivers(self) -> None:
        if not self._alone:
            with self._live.store.transaction("lead", scope=self._replica) as tx:
                leaders.renew(tx, self._replica, self._lease)
        with self._live.store.reading() as tx:
            found = leaders.claimable(tx, self._replica, sorted(ACTIVE), alone=self._alone)
        for run, epoch in found:
            driven = self._drivers.get(run)
            if driven is None or driven[0] != epoch:
                self._claim(run)

    def _claim(self, run: str) -> None:
        with self._live.store.transaction("claim", scope=run) as tx:
            epoch = leaders.claim(tx, run, self._replica, self._lease, alone=self._alone)
        if epoch is not None:
            thread = threading.Thread(target=self._drive, args=(run, epoch), name=f"drive {run}", daemon=True)
            self._drivers[run] = (epoch, thread)
            thread.start()

    def _drive(self, run: str, epoch: int) -> None:
        """One run to its end, or to where it is refused. The manager looks whether it wants another driver."""
        torch.set_num_threads(1)
        with concerning(run=run):
            self._lead(run, epoch)
        if self._drivers.get(run) == (epoch, threading.current_thread()):
            del self._drivers[run]
        self._rung.set()

    def _lead(self, run: str, epoch: int) -> None:
        try:
            with LivePort(self._live, run, epoch) as port:
                self._drive_to_the_end(port, run)
            self._tell_nodes(run)
        except Stopped:
            self._say_who_leads(run, epoch)
        except AWAY as error:
            log.warning("run %s waits: %s", run, error)
            self._stopping.wait(AGAIN)
            self._say_who_leads(run, epoch)
        except Exception:
            log.exception("run %s has no driver; it is tried again", run)
            self._stopping.wait(AGAIN)

    def _drive_to_the_end(self, port: LivePort, run: str) -> None:
        """What was not foreseen fails the run in plain sight."""
        try:
            with self._live.store.reading() as tx:
                row = find_run(tx, run)
            spec = spec_of(row)
            drive(self._live.strategy(row), spec.rounds, spec.seed, port)
            port.finish()
        except (Stopped, *AWAY):
            raise
        except FoedusError as error:
            log.warning("run %s failed: %s", run, error)
            port.fail(f"{error.code}: {error}")
        except Exception as error:
            log.exception("run %s failed", run)
            port.fail(f"internal: the coordinator met an error of its own ({type(error).__name__}); its log says more")

    def _say_who_leads(self, run: str, epoch: int) -> None:
        try:
            with self._live.store.reading() as tx:
                leader, newest = leaders.leader_of(tx, run), find_run(tx, run).epoch
        except FoedusError:
            return
        if newest != epoch and leader != self._replica:
            by = leader or "another replica"
            log.warning("run %s was taken over by %s; what this replica had begun for it is refused", run, by)

    def _tell_nodes(self, run: str) -> None:
        with self._live.store.transaction("told", scope=run) as tx:
            leaders.release(tx, self._replica, run)
            notice(tx, *map(of_node, followers(tx, run)))
