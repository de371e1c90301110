"""foedus on a job: ``python -m benchmarks.ours FOLDER OUT KERNEL EXECUTOR``, by the call that its users make."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import foedus
from benchmarks.exported import Clock, read, report
from benchmarks.jobs import federation, plan, run


def main(folder: str, out: str, kernel: str, executor: str) -> None:
    """Run, and report; the first round began when the last one ended, less what all of them took."""
    data = read(Path(folder))
    result = foedus.simulate(
        run(data.job),
        plan=plan(data.job),
        data=federation(data),
        kernel=kernel,  # type: ignore[arg-type]
        executor=executor,
        progress=False,
    )
    seconds = [record.seconds for record in result.rounds]
    clock = Clock(time.time() - sum(seconds), seconds)
    note = f"{result.choice.kernel}, {result.choice.executor} {result.choice.workers}, stack {result.choice.stack}"
    report(Path(out), clock, {name: tensor.numpy() for name, tensor in result.model.items()}, note)


if __name__ == "__main__":
    main(*sys.argv[1:])
