"""A job written down: data, cohorts, the order of every batch and the initial parameters, in a folder of arrays.

Every runner reads the same folder, a peer's in its own environment too, so this needs nothing but numpy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.definitions import Job

ARRAYS = ("inputs", "targets", "bounds", "cohorts", "orders", "ends")

Arrays = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Exported:
    """``inputs`` ``[examples, 784]``, ``targets`` ``[examples]``; client ``k`` has ``bounds[k] : bounds[k + 1]``.

    ``cohorts`` ``[rounds, cohort]`` holds places of clients. The examples of the ``i``-th ask of all, in the order of
    their batches, are ``orders[ends[i] : ends[i + 1]]``. ``parameters`` are those that training begins with.
    """

    job: Job
    inputs: NDArray[np.float32]
    targets: NDArray[np.int64]
    bounds: NDArray[np.int64]
    cohorts: NDArray[np.int64]
    orders: NDArray[np.int64]
    ends: NDArray[np.int64]
    parameters: Arrays

    def order(self, at: int, place: int) -> NDArray[np.int64]:
        """The rows that the client at ``place`` in the cohort of round ``at`` (from 0) trains on, in order."""
        ask = at * self.job.cohort + place
        return self.orders[self.ends[ask] : self.ends[ask + 1]]

    def size(self, client: int) -> int:
        """The number of examples that a client has."""
        return int(self.bounds[client + 1] - self.bounds[client])

    def write(self, folder: Path) -> None:
        """Into a folder that exists."""
        (folder / "job.json").write_text(json.dumps(asdict(self.job)))
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        np.savez(folder / "parameters.npz", allow_pickle=False, **self.parameters)


def read(folder: Path) -> Exported:
    """What :meth:`Exported.write` wrote."""
    table = json.loads((folder / "job.json").read_text())
    job = Job(**table | {"hidden": tuple(table["hidden"])})
    arrays = {name: np.load(folder / f"{name}.npy") for name in ARRAYS}
    with np.load(folder / "parameters.npz") as parameters:
        return Exported(job, **arrays, parameters=dict(parameters))


@dataclass
class Clock:
    """When training began, on the clock that all processes share, and the seconds that each round took."""

    began: float = 0.0
    rounds: list[float] = field(default_factory=list)
    _last: float = 0.0

    def start(self) -> None:
        """The first round begins (a second call has no effect)."""
        if not self._last:
            self.began, self._last = time.time(), time.perf_counter()

    def round(self) -> None:
        """A round has ended, and the next one begins."""
        now = time.perf_counter()
        self.rounds.append(now - self._last)
        self._last = now

    def resume(self) -> None:
        """The next round begins now, not when the last one ended."""
        self._last = time.perf_counter()


def report(out: Path, clock: Clock, parameters: Arrays, note: str = "") -> None:
    """Write the final parameters, and print the times as JSON, which :mod:`benchmarks.turns` reads."""
    with out.open("wb") as file:
        np.savez(file, allow_pickle=False, **parameters)
    print(json.dumps({"began": clock.began, "rounds": clock.rounds, "note": note}), flush=True)
