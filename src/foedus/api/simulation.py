"""``foedus.simulate``: a run with simulated clients, called from Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Unpack

import torch

from foedus.api.inputs import Data, How, Run, engine_of, read_inputs
from foedus.api.result import Result
from foedus.domain.rng import untouched
from foedus.domain.round import RoundRecord
from foedus.domain.tree import Tensors
from foedus.engine.keeping import Keeping
from foedus.engine.observers import Observer
from foedus.engine.progress import Clock, round_line
from foedus.engine.results import begin_folder, close_folder, recorded
from foedus.engine.simulate import simulate_on
from foedus.engine.trackers import tracking
from foedus.local.plan import TrainingPlan

LINES = 20
"""Lines of progress that a run prints at most, about."""


def simulate(
    run: Run,
    overrides: Mapping[str, object] | None = None,
    *,
    plan: TrainingPlan | None = None,
    data: Data | None = None,
    out: str | os.PathLike[str] | None = None,
    **how: Unpack[How],
) -> Result:
    """Train with simulated clients, in this process and its workers; returns what came of it.

    ``run`` is the path of a run.toml, a table as a dict, or a RunSpec; ``overrides`` sets keys of it, as
    ``{"strategy.local.lr": 0.05}``. A ``plan`` (:func:`foedus.plan`) and ``data`` (:func:`foedus.federation`, or
    columns by client) given as objects stand for those that the run names. With ``out`` the run is recorded in that
    folder while it goes on; without, nothing is written. ``kernel``, ``executor`` and ``workers`` are as on the command
    line; ``progress=False`` is silent. It may be called where an event loop runs, and leaves torch's threads, and the
    random numbers of torch, Python and NumPy, as they were. Ctrl-C ends it.

    Raises:
        ConfigError, PlanError, DataError: before round 1, where anything is wrong.
        QuorumError: where too few clients could contribute.
        ConflictError: where ``out`` holds something.
    """
    with undisturbed(), ExitStack() as stack:
        inputs = read_inputs(run, overrides, plan, data)
        spec, name = inputs.prepared.spec, inputs.name
        kept, engine = Kept(), engine_of(how)
        observers: list[Observer] = [kept, *([Printed(spec.rounds)] if how.get("progress", True) else [])]
        folder = begin_folder(inputs.prepared, name, Path(out), engine) if out is not None else None
        if folder is not None:
            stack.enter_context(recorded(folder, spec, name))
            observers.append(folder)
        trackers = stack.enter_context(tracking(spec, folder.path.name if folder else _stamped(name)))
        keeping = Keeping(folder, spec.checkpoint) if folder is not None else None
        prepared = replace(inputs.prepared, saved=folder.saved if folder else None)
        done = simulate_on(prepared, inputs.federation, engine, [*observers, *trackers.observers], keeping)
        result = Result(
            name,
            spec,
            tuple(kept.records),
            done.model,
            done.held_out,
            done.seconds,
            done.choice,
            done.stopped,
            bundle=inputs.prepared.bundle,
        )
        trackers.result(result.metrics)
        if folder is None:
            return result
        close_folder(folder, spec, result.outcome)
    return replace(result, folder=folder.path)


class Kept:
    """Keeps every record."""

    def __init__(self) -> None:
        self.records: list[RoundRecord] = []

    def round(self, record: RoundRecord) -> None:
        """Keep it."""
        self.records.append(record)

    def finished(self, model: Tensors) -> None:
        """Nothing more to keep."""


class Printed:
    """Prints about twenty lines, evenly over the rounds: a notebook shows them as they come."""

    def __init__(self, rounds: int) -> None:
        self._clock = Clock(rounds)
        self._every = max(1, rounds // LINES)

    def round(self, record: RoundRecord) -> None:
        """Print the round, if it is its turn."""
        line = round_line(record, self._clock)
        if record.round % self._every == 0 or record.round in (1, self._clock.rounds):
            print(line, flush=True)

    def finished(self, model: Tensors) -> None:
        """The result says the rest."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """One thread, for the bits depend on it; the caller's number of threads and random numbers come back at the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with untouched():
            yield
    finally:
        torch.set_num_threads(threads)


def _stamped(name: str) -> str:
    return f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
