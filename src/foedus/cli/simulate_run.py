"""The work of ``foedus simulate``, after its call and run.toml were found in order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from foedus.cli.options import How
from foedus.cli.output import emit, say, table
from foedus.cli.simulation import Simulation, begin, go_on, repeat, run
from foedus.cli.sweep import run_sweep, told
from foedus.cli.sweep_folder import Sweep, begin_sweep, is_sweep, read_sweep, sweep_folder
from foedus.engine.choice import Engine
from foedus.engine.profile import STAGES, Profile
from foedus.engine.results import last_words
from foedus.engine.simulate import Tools


def begin_and_run(run_toml: Path, changes: Mapping[str, str], place: tuple[Path | None, bool], how: How) -> None:
    """A run from its beginning. ``place``: its folder, and whether a run that is there may be replaced."""
    _run(begin(run_toml, changes, _engine(how), *place), how)


def repeat_and_run(folder: Path, changes: Mapping[str, str], place: tuple[Path | None, bool], how: How) -> None:
    """The run in a folder once more. ``place``: as :func:`begin_and_run`."""
    _run(repeat(folder, changes, _engine(how), *place), how)


def go_on_in(folder: Path, changes: Mapping[str, str], how: How) -> None:
    """What is left of the run, or of the sweep, in a folder."""
    if is_sweep(folder):
        _run_sweep(read_sweep(folder), folder, how)
    else:
        _run(go_on(folder, changes, _engine(how)), how)


def sweep(
    run_toml: Path,
    changes: Mapping[str, str],
    settings: tuple[dict[str, list[str]], int],
    out: Path | None,
    how: How,
) -> None:
    """A run for each setting (``KEY=V1,V2`` …) and seed."""
    options, seeds = settings
    planned = begin_sweep(run_toml, changes, options, seeds, how.kernel)
    _run_sweep(planned, sweep_folder(planned, out), how)


def _run(simulation: Simulation, how: How) -> None:
    profile = Profile() if how.profile else None
    summary = run(simulation, Tools(say if how.debug else None, profile))
    if profile:
        say(_times(profile))
    emit(summary, last_words(summary, simulation.folder.path))


def _times(profile: Profile) -> str:
    """Seconds, share and milliseconds per round of each stage, the longest first."""
    whole, rounds = sum(profile.seconds.values()), max(profile.rounds, 1)
    spent = sorted(profile.seconds.items(), key=lambda stage: -stage[1])
    rows = [
        [name, f"{seconds:.3f}", f"{seconds / whole:.0%}", f"{1000 * seconds / rounds:.2f}", STAGES[name]]
        for name, seconds in spent
        if seconds
    ]
    busy = profile.summary().get("busy")
    words = f"\nworkers were busy with clients' work for {busy:.0%} of the wait" if isinstance(busy, float) else ""
    return table(["stage", "seconds", "share", "ms a round", "what"], rows) + words


def _run_sweep(planned: Sweep, folder: Path, how: How) -> None:
    """Run what is left of a sweep, and show what its settings came to."""
    summary = run_sweep(planned, folder, _engine(how))
    emit(summary, told(summary, folder), exit_code=1 if summary["failed"] else 0)


def _engine(how: How) -> Engine:
    return Engine(how.kernel, how.executor, how.workers, how.device)
