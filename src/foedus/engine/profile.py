"""``--profile``: where the time of a run's rounds goes, measured at the seams; without it nothing is wrapped.

Stages do not overlap: inside a stage another one stops its clock. What lies between two seams belongs to what is done
there (after the selector a phase is opened, after the evaluation the model is digested). Inside worker processes
nothing is measured; the parent waits for them, and each contribution says how long its client's work took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ParamSpec, TypeVar

from foedus.domain.plain import Json
from foedus.domain.round import PhaseOrder, Receipt, RoundRecord
from foedus.domain.tree import State, Tensors
from foedus.engine.choice import Choice
from foedus.engine.executors import Executor
from foedus.engine.kernels import BlockResult, Outcome, PhaseWork
from foedus.engine.observers import Observer
from foedus.engine.prepare import Prepared
from foedus.engine.snapshot import Keeper, Snapshot
from foedus.strategies.strategy import Done, Phase

P = ParamSpec("P")
Returned = TypeVar("Returned")

STAGES = {
    "start": "choosing kernel and executor, proving and tracing, forking",
    "select": "choosing the cohort",
    "broadcast": "opening the phase",
    "data": "preparing clients' data (in this process)",
    "train": "clients' work (in this process)",
    "wait": "handing out work and waiting for workers",
    "fold": "adding contributions up",
    "step": "the server's step",
    "evaluate": "measuring the held-out part",
    "digest": "the model's digest, and the round's record",
    "observers": "rounds.jsonl, progress, trackers",
    "checkpoint": "writing checkpoints",
    "other": "everything else",
}
"""Stage → what it is."""


class Profile:
    """Seconds by stage. ``begin`` starts the clock; there is always one stage that it runs for."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.rounds, self.client_seconds, self.workers = 0, 0.0, 1
        self._stack: list[str] = ["start"]
        self._since = time.perf_counter()

    def between(self, stage: str) -> None:
        """What lies outside of any other stage belongs to this one from now on."""
        self._settle()
        self._stack[0] = stage

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run the clock for this stage."""
        self._settle()
        self._stack.append(name)
        try:
            yield
        finally:
            self._settle()
            self._stack.pop()

    def timed(self, name: str, function: Callable[P, Returned], after: str = "") -> Callable[P, Returned]:
        """The same function, whose time belongs to a stage; what comes after it, to the stage ``after``."""

        def call(*arguments: P.args, **named: P.kwargs) -> Returned:
            with self.stage(name):
                returned = function(*arguments, **named)
            if after:
                self.between(after)
            return returned

        return call

    def summary(self) -> dict[str, Json]:
        """Seconds by stage, and the share of the workers' time that clients' work took."""
        self._settle()
        spent: dict[str, Json] = {name: round(seconds, 6) for name, seconds in self.seconds.items() if seconds}
        waited = self.workers * self.seconds["wait"]
        busy: dict[str, Json] = {"busy": round(self.client_seconds / waited, 3)} if waited else {}
        return {"seconds": spent, "rounds": self.rounds, "client_seconds": round(self.client_seconds, 6), **busy}

    def _settle(self) -> None:
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def untimed(name: str, function: Callable[P, Returned], after: str = "") -> Callable[P, Returned]:
    """What :meth:`Profile.timed` is where there is no profile: the function itself."""
    return function


def on_the_clock(
    profile: Profile, prepared: Prepared, observers: Sequence[Observer], keeper: Keeper | None
) -> tuple[Prepared, list[Observer], Keeper | None]:
    """The run, its observers and its keeper, timed."""
    watched: list[Observer] = [ProfiledObserver(each, profile, at == 0) for at, each in enumerate(observers)]
    return profiled(profile, prepared), watched, ProfiledKeeper(keeper, profile) if keeper else None


def profiled(profile: Profile, prepared: Prepared) -> Prepared:
    """The run, with its strategy's parts timed."""
    strategy, known = prepared.strategy, list[tuple[Phase, Phase]]()

    def phase(state: State) -> Phase | Done:
        found = strategy.phase(state)
        if isinstance(found, Done):
            return found
        for original, timed in known:
            if original is found:
                return timed
        known.append((found, _phase(profile, found)))
        return known[-1][1]

    close = profile.timed("step", strategy.close, after="other")
    return replace(prepared, strategy=replace(strategy, phase=phase, close=close))


def _phase(profile: Profile, phase: Phase) -> Phase:
    parts = phase.aggregator
    aggregator = replace(
        parts,
        add=profile.timed("fold", parts.add),
        merge=profile.timed("fold", parts.merge),
        finish=profile.timed("fold", parts.finish),
    )
    return replace(phase, aggregator=aggregator, selector=profile.timed("select", phase.selector, after="broadcast"))


class ProfiledExecutor:
    """Does what the executor inside it does, on the clock."""

    def __init__(self, inside: Executor, profile: Profile, choice: Choice) -> None:
        self.name = inside.name
        self._inside, self._profile = inside, profile
        self._stage = "train" if choice.executor == "inline" else "wait"
        profile.workers = choice.workers
        profile.between("other")

    def run(self, work: PhaseWork, blocks: Sequence[tuple[str, ...]]) -> Iterator[BlockResult]:
        """The same results."""
        return self._each(self._inside.run(work, blocks))

    def outcomes(self, work: PhaseWork, clients: tuple[str, ...]) -> Iterator[Outcome]:
        """The same outcomes."""
        return self._each(self._inside.outcomes(work, clients))

    def close(self) -> None:
        """Close what is inside."""
        self._inside.close()

    def _each(self, results: Iterator[Returned]) -> Iterator[Returned]:
        self._profile.between("other")
        with self._profile.stage(self._stage):
            result = next(results, None)
        while result is not None:
            yield result
            with self._profile.stage(self._stage):
                result = next(results, None)


class ProfiledObserver:
    """An observer on the clock; the first of a run's observers also counts rounds."""

    def __init__(self, inside: Observer, profile: Profile, counts: bool) -> None:
        self._inside, self._profile, self._counts = inside, profile, counts

    def round(self, record: RoundRecord) -> None:
        """Tell it."""
        if self._counts:
            self._profile.between("other")
            self._profile.rounds += 1
            self._profile.client_seconds += sum(r.seconds for phase in record.phases for r in phase.receipts)
        with self._profile.stage("observers"):
            self._inside.round(record)

    def finished(self, model: Tensors) -> None:
        """Tell it."""
        with self._profile.stage("observers"):
            self._inside.finished(model)


class ProfiledKeeper:
    """A keeper on the clock."""

    def __init__(self, inside: Keeper, profile: Profile) -> None:
        self.begin = inside.begin
        self._inside, self._profile = inside, profile

    def chosen(self, choice: Choice) -> None:
        """Tell it."""
        self._inside.chosen(choice)

    def between(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        """Tell it."""
        with self._profile.stage("checkpoint"):
            self._inside.between(rounds, snapshot)

    def abandoned(self, order: PhaseOrder, reason: str, receipts: Sequence[Receipt]) -> None:
        """Tell it."""
        self._inside.abandoned(order, reason, receipts)

    def left(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        """Tell it."""
        with self._profile.stage("checkpoint"):
            self._inside.left(rounds, snapshot)
