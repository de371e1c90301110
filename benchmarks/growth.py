"""What populations, cohorts and many rounds cost, one case per process: ``python -m benchmarks.growth NAME``.

Clients are made by a function from a client's place to its data, so a population of a million takes no room.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil  # type: ignore[import-untyped]
import torch

from benchmarks.definitions import PIXELS, Job
from benchmarks.jobs import prepared
from benchmarks.processes import measure
from benchmarks.rounds import Options
from foedus.data.dataset import Columns
from foedus.data.population import Generated, federation
from foedus.domain.round import RoundRecord
from foedus.domain.tree import Tensors
from foedus.engine.choice import Engine
from foedus.engine.simulate import simulate_on

CACHE = 8
"""MiB of clients' data that each process keeps."""

LOOKS = (100, 1_000, 5_000, 10_000)
"""After these rounds memory is looked at."""

CASES: Mapping[str, Job] = {
    job.name: job
    for job in (
        *(Job(f"population 10^{p}", 10**p, 40, 40, 62, 100, 20, 10, (128,)) for p in (3, 4, 5, 6)),
        Job("cohort 1,000", 10_000, 40, 40, 62, 1_000, 5, 10, (128,)),
        Job("10,000 rounds", 10_000, 10, 10, 10, 5, 10_000, 10),
    )
}


@dataclass
class Watch:
    """An observer that keeps the times of the rounds, and looks at memory after some of them."""

    began: float = 0.0
    seconds: list[float] = field(default_factory=list)
    memory: dict[int, float] = field(default_factory=dict)

    def round(self, record: RoundRecord) -> None:
        """A round has ended."""
        self.began = self.began or time.time() - record.seconds
        self.seconds.append(record.seconds)
        if record.round in LOOKS:
            here = psutil.Process()
            self.memory[record.round] = sum(
                each.memory_info().rss / 2**20 for each in (here, *here.children(recursive=True))
            )

    def finished(self, model: Tensors) -> None:
        """Nothing more to keep."""


def run(options: Options) -> dict[str, object]:
    """Seconds per round (median after the first), start-up in seconds, memory in MiB, per case; each is run once."""
    rows = []
    for name, job in CASES.items():
        measured = measure([sys.executable, "-m", "benchmarks.growth", name])
        row = {"case": name, "population": job.clients, "cohort": job.cohort, "rounds": job.rounds}
        if measured.failure:
            rows.append(row | {"failure": measured.failure})
            continue
        said = measured.said
        row |= {"round": statistics.median(said["rounds"][1:]), "startup": said["began"] - measured.began}
        rows.append(row | {"peak": measured.peak, "memory": said["memory"], "note": said["note"]})
    return {"n": 1, "rows": rows}


def generated(job: Job, place: int) -> Columns:
    """The data of the client at ``place``."""
    rng = torch.Generator().manual_seed(place)
    targets = torch.randint(job.classes, (job.low,), generator=rng)
    return {"inputs": torch.randn(job.low, PIXELS, generator=rng), "targets": targets}


def main(name: str) -> None:
    """Run a case."""
    job, watch = CASES[name], Watch()
    clients = federation(Generated(job.clients, lambda place: generated(job, place)))
    choice = simulate_on(prepared(job, CACHE), clients, Engine(), (watch,)).choice
    print(json.dumps({"began": watch.began, "rounds": watch.seconds, "memory": watch.memory, "note": choice.kernel}))


if __name__ == "__main__":
    main(*sys.argv[1:])
