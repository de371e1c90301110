"""``foedus simulate --sweep``: the runs of a sweep, each in a process and a folder of its own, and their comparison."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from foedus.cli.main import execute
from foedus.cli.output import say, table
from foedus.cli.simulation import terminable
from foedus.cli.sweep_folder import SWEEP, Sweep
from foedus.domain.errors import ConfigError
from foedus.domain.machine import cores
from foedus.domain.plain import Json
from foedus.engine.choice import Engine
from foedus.engine.folder import ENVIRONMENT, SUMMARY, is_run
from foedus.engine.forking import listen, undisturbed
from foedus.engine.json_text import read_json, to_json
from foedus.engine.sweep import (
    Ended,
    Planned,
    as_csv,
    as_html,
    as_json,
    cells,
    compared,
    measure_of,
    names_of,
    planned,
)
from foedus.engine.workers import available

ENDING = 60.0
"""Seconds for which a run that is told to stop may write its checkpoint."""


def run_sweep(sweep: Sweep, folder: Path, engine: Engine) -> dict[str, Json]:
    """Run what is left of a sweep; returns its summary, which is in the folder as JSON, CSV and a page.

    Raises:
        ConfigError: ``kernel_recorded`` where another kernel is asked for than the sweep was begun with.
    """
    if engine.kernel not in ("auto", sweep.kernel):
        raise ConfigError(
            "kernel_recorded",
            f"The sweep was begun with kernel {sweep.kernel}, and goes on with it.",
            "Its runs could not be compared with those that are done.",
            "Leave --kernel out, or begin another sweep.",
        )
    waiting = [run for run in sweep.runs if ended(folder, run).status != "completed"]
    done = len(sweep.runs) - len(waiting)
    together = _together(engine, len(waiting))
    say(f"{len(sweep.runs)} runs, {done} of them done; {together} at a time, in {folder}")
    inline = replace(engine, kernel=sweep.kernel, executor="inline" if together > 1 else engine.executor)
    began = time.monotonic()
    with terminable(), _stopping() as running:
        for run in _each(sweep, folder, inline, waiting, (running, together)):
            done += 1
            left = (time.monotonic() - began) / (done - len(sweep.runs) + len(waiting)) * (len(sweep.runs) - done)
            say(f"run {done}/{len(sweep.runs)}  {_words(ended(folder, run))}  left {left:.0f} s")
    return _close(sweep, folder)


def told(summary: Mapping[str, Any], folder: Path) -> str:
    """The table of settings, for people."""
    results = [ended(folder, run) for run in read_runs(summary)]
    rows = compared(results, str(summary["measure"]), str(summary["direction"]))
    names = names_of(rows)
    lines = table(["setting", "runs", *names], [cells(row, names) for row in rows])
    return f"{lines}\n* best {summary['measure']}\nfolder  {folder}\nreport  {folder / 'sweep.html'}"


def read_runs(summary: Mapping[str, Any]) -> list[Planned]:
    """The runs of a sweep's summary."""
    return planned(summary["sweep"]["options"], summary["sweep"]["seeds"])


def ended(folder: Path, run: Planned) -> Ended:
    """How a run ended, by its summary; ``waiting`` where it did not begin, ``died`` where it has no summary."""
    path = folder / run.name
    try:
        summary = json.loads((path / SUMMARY).read_text())
        metrics = {name: float("nan") if value is None else value for name, value in summary["metrics"].items()}
        words = (str(summary["status"]), metrics, float(summary["seconds"]), str(summary["model_digest"]))
        return Ended(run, *words, str(summary.get("error", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Ended(run, "died" if path.is_dir() or _log(folder, run).is_file() else "waiting", {})


def _words(run: Ended) -> str:
    name, rows = run.planned.name, compared([run], "", "max")
    shown = "  ".join(f"{metric} {value:.4f}" for metric, value in list(run.metrics.items())[:3])
    reason = f"{run.error}  (see its log)" if run.error or run.status == "died" else ""
    return f"{name}  {rows[0].setting.words}  {run.status}  {shown or reason}"


def _together(engine: Engine, runs: int) -> int:
    """How many runs at a time: one per core where each keeps to its process, else one."""
    return max(1, min(cores(), runs)) if engine.executor in ("auto", "inline") and engine.workers is None else 1


@contextmanager
def _stopping() -> Iterator[dict[int, tuple[BaseProcess, Planned]]]:
    """The processes that run; whatever happens, none is left: each is told to stop, and keeps a checkpoint."""
    running: dict[int, tuple[BaseProcess, Planned]] = {}
    try:
        yield running
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join(ENDING)
            process.kill()
            process.join()


def _each(
    sweep: Sweep,
    folder: Path,
    engine: Engine,
    waiting: Sequence[Planned],
    place: tuple[dict[int, tuple[BaseProcess, Planned]], int],
) -> Iterator[Planned]:
    """Start the runs that wait, so many at a time, and give each back when it has ended, however it did."""
    running, together = place
    left = list(reversed(waiting))
    while left or running:
        while left and len(running) < together:
            run = left.pop()
            process = _process(_arguments(sweep, folder, run, engine), _log(folder, run))
            with undisturbed():
                process.start()
                running[process.sentinel] = (process, run)
        for sentinel in wait(list(running)):
            assert isinstance(sentinel, int)
            process, run = running.pop(sentinel)
            process.join()
            yield run


def _process(arguments: list[str], log: Path) -> BaseProcess:
    fork = available()
    make = multiprocessing.get_context("fork").Process if fork else multiprocessing.get_context("spawn").Process
    return make(target=_run, args=(arguments, log))


def _arguments(sweep: Sweep, folder: Path, run: Planned, engine: Engine) -> list[str]:
    path, kernel = folder / run.name, ["--kernel", engine.kernel]
    words = ["simulate", "--executor", engine.executor, "--device", engine.device]
    words += ["--workers", str(engine.workers)] if engine.workers else []
    if is_run(path):
        chosen = "kernel" in read_json(path / ENVIRONMENT)  # and what was chosen stays
        return [*words, *([] if chosen else kernel), "--resume", str(path)]
    shutil.rmtree(path, ignore_errors=True)  # what was left of a run that died before it had begun
    settings = {**sweep.overrides, **run.overrides}
    sets = [f"--set={key}={text}" for key, text in settings.items()]
    return [*words, *kernel, sweep.run_toml, "--out", str(path), *sets]


def _log(folder: Path, run: Planned) -> Path:
    return folder / f"{run.name}.log"


def _run(arguments: list[str], log: Path) -> None:
    """A run, in a process of its own, whose words go into its log; the sweep alone hears of Ctrl-C."""
    listen()
    with log.open("a", buffering=1, encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        sys.exit(execute(arguments))


def _close(sweep: Sweep, folder: Path) -> dict[str, Json]:
    results = [ended(folder, run) for run in sweep.runs]
    names = sorted({name for run in results if run.status == "completed" for name in run.metrics})
    measure, direction = measure_of(sweep.directions, names)
    rows = compared(results, measure, direction)
    failed = sum(run.status != "completed" for run in results)
    summary: dict[str, Json] = {
        "sweep": dict(vars(sweep)),
        "folder": str(folder),
        "measure": measure,
        "direction": direction,
        "completed": len(results) - failed,
        "failed": failed,
        **as_json(rows, results),
    }
    for name, text in (
        (SWEEP, to_json(summary, indent=2) + "\n"),
        ("sweep.csv", as_csv(results)),
        ("sweep.html", as_html(sweep.name, rows, results, measure)),
    ):
        aside = folder / f".{name}.part"
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / name)
    return summary
