"""One runner on one job in a process of its own: ``python -m benchmarks.measure JOB RUNNER OUT``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import bare, ours
from benchmarks.jobs import JOBS, Job
from foedus.domain.codec import encode
from foedus.domain.tree import State

Run = Callable[[Job], tuple[list[float], dict[str, Tensor], str]]


def _bare(processes: int, dtype: torch.dtype = torch.float32) -> Run:
    def run(job: Job) -> tuple[list[float], dict[str, Tensor], str]:
        return *bare.run(job, processes, dtype), ""

    return run


def _ours(kernel: str, executor: str) -> Run:
    def run(job: Job) -> tuple[list[float], dict[str, Tensor], str]:
        seconds, model, choice = ours.run(job, kernel, executor)
        return seconds, model, f"{choice.kernel}, {choice.executor} {choice.workers}, stack {choice.stack}"

    return run


RUNNERS: dict[str, Run] = {
    "bare": _bare(1),
    "bare, 2 processes": _bare(2),
    "eager inline": _ours("eager", "inline"),
    "eager workers": _ours("eager", "workers"),
    "graph inline": _ours("graph", "inline"),
    "graph workers": _ours("graph", "workers"),
    "auto": _ours("auto", "auto"),
}
REFERENCE = "float64"


def main(job: str, runner: str, out: str) -> None:
    """Run, write the final parameters to ``OUT``, and print seconds per round as JSON."""
    run = _bare(1, torch.float64) if runner == REFERENCE else RUNNERS[runner]
    seconds, model, note = run(JOBS[job])
    Path(out).write_bytes(encode(State({"model": model})))
    print(json.dumps({"rounds": seconds, "note": note}))


if __name__ == "__main__":
    main(*sys.argv[1:])
