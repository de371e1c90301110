"""foedus on a job: ``python -m benchmarks.ours FOLDER OUT KERNEL EXECUTOR``, through the simulation that users run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from benchmarks.exported import Clock, Exported, read, report
from benchmarks.jobs import federation, prepared
from foedus.domain.round import RoundRecord
from foedus.domain.tree import Tensors
from foedus.engine.choice import Choice, Engine
from foedus.engine.simulate import simulate_on


@dataclass
class Timer:
    """An observer that keeps the times of the rounds."""

    clock: Clock = field(default_factory=Clock)

    def round(self, record: RoundRecord) -> None:
        """A round has ended; the first one tells when it began."""
        self.clock.start()
        self.clock.rounds.append(record.seconds)
        if len(self.clock.rounds) == 1:
            self.clock.began -= record.seconds

    def finished(self, model: Tensors) -> None:
        """Nothing more to keep."""


def run(data: Exported, kernel: str, executor: str) -> tuple[Clock, dict[str, Tensor], Choice]:
    """Train; returns the times, the final parameters, and what was chosen."""
    timer = Timer()
    result = simulate_on(prepared(data.job), federation(data), Engine(kernel, executor), (timer,))
    return timer.clock, dict(result.model), result.choice


def main(folder: str, out: str, kernel: str, executor: str) -> None:
    """Run, and report."""
    clock, model, choice = run(read(Path(folder)), kernel, executor)
    note = f"{choice.kernel}, {choice.executor} {choice.workers}, stack {choice.stack}"
    report(Path(out), clock, {name: tensor.numpy() for name, tensor in model.items()}, note)


if __name__ == "__main__":
    main(*sys.argv[1:])
