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
from foedus.domain.plain import Json
from foedus.engine.choice import Engine
from foedus.engine.folder import RunFolder
from foedus.engine.keeping import Keeping
from foedus.engine.prepare import Prepared, prepare
from foedus.engine.results import Outcome, begin_folder, close_folder, how_it_ran, recorded, run_name
from foedus.engine.resume import once_more, take_up
from foedus.engine.simulate import Tools, simulate
from foedus.engine.trackers import tracking

TERMINATED = 143


@dataclass(frozen=True)
class Simulation:
    """A run that may begin, or go on, on an ``engine``; ``seconds`` were spent on it before."""

    name: str
    prepared: Prepared
    folder: RunFolder
    keeping: Keeping
    engine: Engine
    seconds: float = 0.0


def begin(
    run_toml: Path, overrides: Mapping[str, str], asked: Engine, out: Path | None = None, force: bool = False
) -> Simulation:
    """A run of run.toml in a folder of its own, which says what was asked for."""
    prepared = prepare(run_toml, overrides)
    return _begun(run_name(prepared.spec, run_toml), prepared, asked, out, force)


def repeat(
    path: Path, overrides: Mapping[str, str], asked: Engine, out: Path | None = None, force: bool = False
) -> Simulation:
    """The run in a folder once more, in a folder of its own, on the engine that it was begun with."""
    return _begun(*once_more(path, overrides, asked), out, force)


def _begun(name: str, prepared: Prepared, engine: Engine, out: Path | None, force: bool) -> Simulation:
    folder = begin_folder(prepared, name, out, engine, force=force)
    return Simulation(name, prepared, folder, Keeping(folder, prepared.spec.checkpoint), engine)


def go_on(path: Path, overrides: Mapping[str, str], asked: Engine) -> Simulation:
    """The run in a folder, after its last checkpoint, on the engine that it was begun with."""
    taken = take_up(path, overrides, asked)
    for note in taken.notes:
        say(note)
    say(f"going on after round {taken.rounds}" if taken.rounds else "no round was kept; beginning with the first")
    return Simulation(taken.name, taken.prepared, taken.folder, taken.keeping, taken.engine, taken.seconds)


def run(simulation: Simulation, tools: Tools | None = None) -> dict[str, Json]:
    """Run it to its end; returns the summary, which is in the folder too."""
    spec, folder = simulation.prepared.spec, simulation.folder
    if simulation.engine.executor == "ray":
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
            result = simulate(prepared, simulation.engine, told, simulation.keeping, tools)
        say(result.choice.reason)
        facts, seconds = how_it_ran(result.choice, result.stopped), simulation.seconds + result.seconds
        if tools and tools.profile:
            facts["profile"] = tools.profile.summary()
        outcome = Outcome(simulation.name, "completed", result.model_digest, seconds, result.held_out, facts)
        trackers.result(outcome.final(folder.history))
        return close_folder(folder, spec, outcome)


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
