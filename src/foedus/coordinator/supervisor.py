"""A driver thread for every run that is waiting or running. Start-up is recovery: it begins where the rows say."""

from __future__ import annotations

import logging
import threading

import torch
from sqlalchemy import select

from foedus.coordinator.bells import RUNS, of_node
from foedus.coordinator.live import Live, find_run, spec_of
from foedus.coordinator.rounds import LivePort, Stopped
from foedus.coordinator.runs import followers
from foedus.domain.errors import FoedusError
from foedus.domain.lifecycle import ACTIVE
from foedus.engine.driver import drive
from foedus.store.tables import runs

RESCAN = 30.0
"""Seconds after which runs without a driver are looked for though no bell rang."""

JOIN = 30.0
log = logging.getLogger("foedus.coordinator")


class Supervisor:
    """Starts and stops the drivers."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._rung = threading.Event()
        self._manager = threading.Thread(target=self._manage, name="runs", daemon=True)
        self._drivers: dict[tuple[str, int], threading.Thread] = {}

    def start(self) -> None:
        """Begin, with what the database says is unfinished."""
        self._manager.start()

    def stop(self) -> None:
        """End every driver at its next look; what they do not finish is taken up at the next start."""
        self._live.bells.close()
        self._rung.set()
        self._manager.join(JOIN)
        for thread in self._drivers.values():
            thread.join(JOIN)

    def _manage(self) -> None:
        with self._live.bells.listening(RUNS, self._rung.set):
            while not self._live.bells.closed:
                self._rung.clear()
                try:
                    self._start_drivers()
                except FoedusError as error:
                    log.error("runs cannot be looked for: %s", error)
                if not self._live.bells.closed:
                    self._rung.wait(RESCAN)

    def _start_drivers(self) -> None:
        self._drivers = {key: thread for key, thread in self._drivers.items() if thread.is_alive()}
        with self._live.store.reading() as tx:
            active = tx.execute(select(runs.c.id, runs.c.epoch).where(runs.c.status.in_(sorted(ACTIVE)))).all()
        for run, epoch in active:
            if (run, epoch) not in self._drivers:
                thread = threading.Thread(target=self._drive, args=(run, epoch), name=f"drive {run}", daemon=True)
                self._drivers[run, epoch] = thread
                thread.start()

    def _drive(self, run: str, epoch: int) -> None:
        """One run to its end. What was not foreseen fails it in plain sight; if even that fails, it is tried again."""
        torch.set_num_threads(1)
        try:
            with LivePort(self._live, run, epoch) as port:
                self._drive_to_the_end(port, run)
            self._tell_nodes(run)
        except Stopped:
            pass
        except Exception:
            log.exception("run %s has no driver; it is tried again", run)

    def _drive_to_the_end(self, port: LivePort, run: str) -> None:
        try:
            with self._live.store.reading() as tx:
                row = find_run(tx, run)
            spec = spec_of(row)
            drive(self._live.strategy(row), spec.rounds, spec.seed, port)
            port.finish()
        except Stopped:
            raise
        except FoedusError as error:
            log.warning("run %s failed: %s", run, error)
            port.fail(f"{error.code}: {error}")
        except Exception as error:
            log.exception("run %s failed", run)
            port.fail(f"internal: the coordinator met an error of its own ({type(error).__name__}); its log says more")

    def _tell_nodes(self, run: str) -> None:
        with self._live.store.reading() as tx:
            nodes = followers(tx, run)
        self._live.bells.ring(*map(of_node, nodes))
