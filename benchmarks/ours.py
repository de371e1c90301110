"""foedus on a job, through its engine: the driver, the port of a simulation, and a kernel and executor by name."""

from __future__ import annotations

from torch import Tensor

from benchmarks.jobs import Job, client_data, prepared
from foedus.engine.choice import Choice, Engine, choose
from foedus.engine.driver import drive
from foedus.engine.virtual import VirtualPort


def run(job: Job, kernel: str, executor: str) -> tuple[list[float], dict[str, Tensor], Choice]:
    """Train; returns seconds per round, the final parameters, and what was chosen."""
    ready, data = prepared(job), client_data(job)
    names = tuple(sorted(data))
    chosen, choice = choose(Engine(kernel, executor), ready, data.__getitem__, names)
    port = VirtualPort(ready, names, chosen, ())
    try:
        state = drive(ready.strategy, job.rounds, ready.spec.seed, port)
    finally:
        chosen.close()
    return [record.seconds for record in port.records], dict(state.tensors["model"]), choice
