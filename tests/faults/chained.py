"""A coordinator that is killed at several places, one after another, and what must hold in what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from foedus.store.artifacts import Artifacts
from foedus.store.unit_of_work import Store
from tests.cluster.laws import Laws
from tests.federation import LocalFederation, stop, until

ROOT = Path(__file__).parents[2]


class Chained:
    """A foedus command that dies at each place in turn (:mod:`tests.faults.chain`), and what is told of it."""

    def __init__(self, folder: Path, places: Sequence[str], *command: str, **environment: str) -> None:
        self.deaths, self.log = folder / "deaths", folder / "chain.log"
        self.deaths.unlink(missing_ok=True)
        arguments = [sys.executable, "-m", "tests.faults.chain", str(self.deaths), *places, "--", *command]
        environment = os.environ | environment
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    def died(self) -> list[str]:
        """Where it was killed so far."""
        return self.deaths.read_text().splitlines() if self.deaths.exists() else []


def numbered(places: Iterable[str], occurrence: int = 1) -> list[str]:
    return [f"{place}:{occurrence}" for place in places]


def chain_coordinator(federation: LocalFederation, places: Sequence[str], **environment: str) -> Chained:
    """Start the coordinator anew, to be killed at each place."""
    assert federation.coordinator is not None
    if federation.coordinator.poll() is None:
        stop(federation.coordinator)
    where = ("--folder", str(federation.folder / "coordinator"), "--port", str(federation.port))
    chained = Chained(federation.folder, places, "coordinator", "start", *where, **federation.storage, **environment)
    federation.coordinator = chained.process
    until(f"the coordinator starts, see {chained.log}", federation.is_ready)
    return chained


def opened(federation: LocalFederation) -> tuple[Store, Artifacts]:
    folder = federation.folder / "coordinator"
    return Store(f"sqlite:///{folder / 'coordinator.db'}"), Artifacts(folder)


def hold_the_laws(federation: LocalFederation) -> None:
    """Whatever was killed: I1, I6, I7 and I8 hold in what is stored."""
    store, artifacts = opened(federation)
    Laws(collected=True).check(store, artifacts)
    store.close()
