"""A simulation from its beginning, or from its folder, to its summary: what ``foedus simulate`` and sweeps do."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from foedus.cli.output import say
from foedus.cli.progress import progress
from foedus.domain.errors import ConfigError
from foedus.domain.plain import Json
from foedus.engine.choice import Choice, Engine
from foedus.engine.folder import RunFolder
from foedus.engine.keeping import Keeping
from foedus.engine.prepare import Prepared, prepare
from foedus.engine.results import Outcome, begin_folder, close_folder, how_it_ran, recorded, run_name
from foedus.engine.resume import take_up
from foedus.engine.simulate import Tools, simulate
from foedus.engine.trackers import tracking

TERMINATED = 143


@dataclass(frozen=True)
class Simulation:
    """A run that may begin, or go on: ``seconds`` were spent on it before, and ``choice`` was made then."""

    name: str
    prepared: Prepared
    folder: RunFolder
    keeping: Keeping
    seconds: float = 0.0
    choice: Choice | None = None


def begin(run_toml: Path, overrides: Mapping[str, str], out: Path | None, force: bool) -> Simulation:
    """A run of run.toml in a folder of its own."""
    prepared = prepare(run_toml, overrides)
    name = run_name(prepared.spec, run_toml)
    folder = begin_folder(prepared, name, out, force=force)
    return Simulation(name, prepared, folder, Keeping(folder, prepared.spec.checkpoint))


def go_on(path: Path, overrides: Mapping[str, str]) -> Simulation:
    """The run in a folder, after its last checkpoint."""
    taken = take_up(path, overrides)
    for note in taken.notes:
        say(note)
    say(f"going on after round {taken.rounds}" if taken.rounds else "no round was kept; beginning with the first")
    return Simulation(taken.name, taken.prepared, taken.folder, taken.keeping, taken.seconds, taken.choice)


def run(simulation: Simulation, asked: Engine, tools: Tools | None = None) -> dict[str, Json]:
    """Run it to its end; returns the summary, which is in the folder too."""
    spec, folder = simulation.prepared.spec, simulation.folder
    engine = _as_before(asked, simulation.choice) if simulation.choice else asked
    if engine.executor == "ray":
        say("connecting to Ray, or starting it here, which takes some seconds …")
    with (
        terminable(),
        _resumable(folder),
        recorded(folder, spec, simulation.name),
        tracking(spec, folder.path.resolve().name) as trackers,
    ):
        with progress(spec.rounds) as observer:
            told = [folder, observer, *trackers.observers]
            prepared = replace(simulation.prepared, saved=folder.saved)
            result = simulate(prepared, engine, told, simulation.keeping, tools)
        say(result.choice.reason)
        facts, seconds = how_it_ran(result.choice, result.stopped), simulation.seconds + result.seconds
        if tools and tools.profile:
            facts["profile"] = tools.profile.summary()
        outcome = Outcome(simulation.name, "completed", result.model_digest, seconds, result.held_out, facts)
        trackers.result(outcome.final(folder.history))
        return close_folder(folder, spec, outcome)


def _as_before(asked: Engine, choice: Choice) -> Engine:
    """What was asked for, with the kernel that the run was begun with; where it runs decides no bit, and may change."""
    if asked.kernel not in ("auto", choice.kernel):
        raise ConfigError(
            "kernel_recorded",
            f"The run was begun with kernel {choice.kernel}, and goes on with it.",
            "Another kernel gives other bits.",
            "Leave --kernel out, or begin another run.",
        )
    as_it_was = asked.executor == "auto" and asked.workers is None
    executor = replace(asked, executor=choice.executor, workers=choice.workers) if as_it_was else asked
    return replace(executor, kernel=choice.kernel, device=choice.device, recipe=choice.recipe)


@contextmanager
def _resumable(folder: RunFolder) -> Iterator[None]:
    """Say how a run that was interrupted goes on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say(f"stopped after round {len(folder.history.rows)}; it goes on with: foedus simulate --resume {folder.path}")
        raise


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM end the run as Ctrl-C does, with a code of its own."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
