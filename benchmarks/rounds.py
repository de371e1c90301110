"""Round times of every runner on a job: they take turns, each in a fresh process; ratios are taken turn by turn."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.definitions import JOBS, Job
from benchmarks.exported import Arrays, Exported
from benchmarks.jobs import available, export, shortened
from benchmarks.processes import measure
from benchmarks.runners import AUTO, BARE, BARE_2, REFERENCE, RUNNERS, Runner


@dataclass
class Row:
    """One runner's turns: median seconds per round after the first, start-up and whole process in seconds, MiB.

    ``distance``: how far the final parameters are from a float64 run's, as a share of the way that training went.
    """

    runner: str
    round: list[float] = field(default_factory=list)
    startup: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    distance: float = 0.0
    note: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Options:
    """``repeat`` turns each, ``rounds`` in place of the job's own (0: the job's own), only runners named ``only``."""

    repeat: int = 3
    rounds: int = 0
    only: tuple[str, ...] = ()

    def wants(self, runner: Runner) -> bool:
        """Whether a runner takes part."""
        return not self.only or any(part in runner.name for part in self.only)


def run(name: str, options: Options) -> dict[str, object]:
    """One job, as plain data."""
    job = shortened(JOBS[name], options.rounds)
    why = available(job)
    rows = [] if why else compare(job, options)
    return {"job": asdict(job), "n": options.repeat, "rows": [asdict(row) for row in rows], "skipped": why}


def compare(job: Job, options: Options) -> list[Row]:
    """Every runner that can take part, ``repeat`` times, in turn."""
    runners = [runner for runner in RUNNERS if runner.takes(job) and options.wants(runner)]
    rows = [Row(runner.name) for runner in runners]
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "out.npz"
        data = export(job)
        data.write(folder)
        reference = _turn(REFERENCE, Row(REFERENCE.name), folder, out)
        for _ in range(options.repeat):
            for runner, row in zip(runners, rows, strict=True):
                parameters = {} if row.failure else _turn(runner, row, folder, out)
                if parameters:
                    row.distance = distance(parameters, reference, data)
    return rows


def _turn(runner: Runner, row: Row, folder: Path, out: Path) -> Arrays:
    """One turn; returns the final parameters, or nothing where it failed."""
    out.unlink(missing_ok=True)
    environment = {**runner.environment, "BENCH_JOB": str(folder)}
    measured = measure(runner.line(folder, out), environment)
    if measured.failure:
        row.failure = measured.failure
        return {}
    seconds = measured.said["rounds"]
    row.round.append(statistics.median(seconds[1:] or seconds))
    row.startup.append(measured.said["began"] - measured.began)
    row.wall.append(measured.wall)
    row.peak.append(measured.peak)
    row.note = measured.said["note"]
    with np.load(out) as parameters:
        return dict(parameters)


def distance(parameters: Arrays, reference: Arrays, data: Exported) -> float:
    """``|p − r| / |r − s|`` over all parameters, L2, where ``r`` is the reference and ``s`` the start."""
    off = sum(float(np.square(parameters[name].astype(np.float64) - r).sum()) for name, r in reference.items())
    way = sum(float(np.square(data.parameters[name].astype(np.float64) - r).sum()) for name, r in reference.items())
    return float((off / way) ** 0.5)


def ratio(base: Sequence[float], ours: Sequence[float]) -> float | None:
    """The median of the ratios turn by turn, over the turns that both took."""
    pairs = [first / second for first, second in zip(base, ours, strict=False)]
    return statistics.median(pairs) if pairs else None


HEAD = ("runner", "round ms", "× bare", "× bare 2", "defaults ×", "start-up s", "wall s", "MiB", "distance", "")


def lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The table's lines: medians over the turns."""
    times = {row.runner: row.round for row in rows}
    made = []
    for row in rows:
        if row.failure:
            made.append((row.runner, *("–",) * (len(HEAD) - 2), f"failed: {row.failure}"))
            continue
        by = [_shown(ratio(times.get(base, ()), row.round)) for base in (BARE, BARE_2)]
        made.append(
            (
                row.runner,
                f"{1000 * statistics.median(row.round):.1f}",
                *by,
                _shown(ratio(row.round, times.get(AUTO, ()))),
                f"{statistics.median(row.startup):.2f}",
                f"{statistics.median(row.wall):.2f}",
                f"{max(row.peak):.0f}",
                f"{row.distance:.1e}",
                row.note,
            )
        )
    return made


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
