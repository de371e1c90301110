"""Round times of foedus and of the bare loops: runners take turns, each in a fresh process; ratios are by turn."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.jobs import JOBS, Job, prepared
from benchmarks.measure import REFERENCE, RUNNERS
from foedus.domain.codec import decode
from foedus.domain.tree import Tensors

POLL = 0.1
"""Seconds between two looks at a runner's memory."""


@dataclass
class Row:
    """One runner's turns: median seconds per round after the first, wall seconds, and peak memory in MiB.

    ``distance``: how far the final parameters are from a float64 run's, as a share of the way that training went.
    """

    job: str
    runner: str
    round: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    distance: float = 0.0
    note: str = ""


def compare(job: Job, repeat: int) -> list[Row]:
    """Every runner ``repeat`` times, in turn."""
    rows = [Row(job.name, runner) for runner in RUNNERS]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.safetensors"
        measure(Row(job.name, REFERENCE), out)
        reference = _tensors(out)
        for _ in range(repeat):
            for row in rows:
                measure(row, out)
                row.distance = distance(_tensors(out), reference, prepared(job).model)
    return rows


def measure(row: Row, out: Path) -> None:
    """One turn of one runner."""
    began, peak = time.perf_counter(), 0.0
    command = [sys.executable, "-m", "benchmarks.measure", row.job, row.runner, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, memory(watched))
            time.sleep(POLL)
        text = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{row.runner} on {row.job} failed.")
    result = json.loads(text.splitlines()[-1])
    row.round.append(statistics.median(result["rounds"][1:]))
    row.wall.append(time.perf_counter() - began)
    row.peak.append(peak / 2**20)
    row.note = result["note"]


def memory(process: psutil.Process) -> float:
    """Bytes of a process and its children; what they share counts once."""
    total = 0.0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_full_info().pss
    except psutil.Error:
        return 0.0
    return total


def distance(model: Tensors, reference: Tensors, start: Tensors) -> float:
    """``|model − reference| / |reference − start|`` over all parameters, L2."""
    off = sum(float((model[name].double() - tensor).square().sum()) for name, tensor in reference.items())
    way = sum(float((start[name].double() - tensor).square().sum()) for name, tensor in reference.items())
    return float((off / way) ** 0.5)


def table(rows: list[Row]) -> str:
    """The rows for people: medians, and ratios to the bare loops as medians of the ratios of each turn."""
    one, two = rows[0].round, rows[1].round
    lines = [f"{rows[0].job}  (n={len(one)}; × is the bare loop's time over this one's, 1 and 2 processes)"]
    lines.append(
        f"  {'runner':<20}{'round ms':>10}{'× bare':>9}{'× bare 2':>10}{'wall s':>9}{'MiB':>7}{'distance':>10}"
    )
    for row in rows:
        by_one, by_two = ratio(one, row.round), ratio(two, row.round)
        times = f"{1000 * statistics.median(row.round):>10.1f}{by_one:>9.2f}{by_two:>10.2f}"
        rest = f"{statistics.median(row.wall):>9.2f}{max(row.peak):>7.0f}{row.distance:>10.1e}"
        lines.append(f"  {row.runner:<20}{times}{rest}  {row.note}")
    return "\n".join(lines)


def ratio(base: list[float], ours: list[float]) -> float:
    """The median of the ratios turn by turn."""
    return statistics.median(first / second for first, second in zip(base, ours, strict=True))


def run(name: str, repeat: int, tell: bool) -> list[dict[str, object]]:
    """Compare on one job; ``tell`` prints the table."""
    rows = compare(JOBS[name], repeat)
    if tell:
        print(table(rows), flush=True)
    return [asdict(row) for row in rows]


def _tensors(path: Path) -> Tensors:
    return decode(path.read_bytes()).tensors["model"]
