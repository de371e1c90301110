"""Which kernel and which executor run a simulation: what was asked for, what was chosen, and why."""

from __future__ import annotations

from dataclasses import dataclass

from foedus.engine.executors import Executor, InlineExecutor
from foedus.engine.kernels import ClientSource, EagerKernel
from foedus.engine.prepare import Prepared

KERNELS = ("auto", "eager", "graph")
EXECUTORS = ("auto", "inline", "workers")


@dataclass(frozen=True)
class Engine:
    """What was asked for. ``workers`` is the number of processes; none means one per core."""

    kernel: str = "auto"
    executor: str = "auto"
    workers: int | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why, in words."""

    kernel: str
    executor: str
    workers: int
    reason: str


def choose(
    engine: Engine, prepared: Prepared, source: ClientSource, clients: tuple[str, ...]
) -> tuple[Executor, Choice]:
    """The executor for a run."""
    kernel = EagerKernel(prepared.plan, prepared.spec.seed)
    return InlineExecutor(kernel, source), Choice("eager", "inline", 1, "")
