"""Many nodes on one coordinator process: ``python -m benchmarks.nodes [--nodes 2000] [--database sqlite|postgresql]``.

Every node waits in a signed long poll on a connection of its own. Then rounds ask a few of them, for the time from
asking to telling; one round asks all, for contributions per second of a 100 kB model; and the coordinator is killed,
for the time until it serves again. The crowd takes one of the machine's cores, and says how much of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.crowd import Node, crowd
from benchmarks.payload import submission
from benchmarks.processes import measure
from benchmarks.rounds import Options
from foedus.client import runs
from foedus.client.admin import create_join_token
from tests.federation import LocalFederation
from tests.postgres import OPTIONS, programs, serving

NODES, ASKED, ROUNDS = 2000, 100, 10
ELEMENTS = 25_000
"""Of float32, 100 kB."""

LOOK = 10.0
"""Seconds between looks at the memory of all processes; the coordinator's own peak is told by the kernel."""

DATABASES = ("sqlite", "postgresql")
Result = dict[str, float]


def run(options: Options) -> dict[str, object]:
    """Both databases, each in a process of its own; ``--only sqlite`` leaves the other out."""
    rows: list[dict[str, object]] = []
    for database in DATABASES:
        if not options.only or database in options.only:
            measured = measure([sys.executable, "-m", "benchmarks.nodes", "--database", database], look=LOOK)
            found = {"failure": measured.failure} if measured.failure else dict(measured.said)
            rows.append({"database": database, **found})
    return {"rows": rows}


@contextmanager
def _federation(folder: Path, database: str) -> Iterator[LocalFederation]:
    """A coordinator alone."""
    with LocalFederation(folder) as federation:
        if database == "sqlite":
            federation.start_coordinator()
            yield federation
            return
        if (binaries := programs()) is None:
            raise SystemExit("PostgreSQL's server is not here.")
        OPTIONS.update(fsync="on", full_page_writes="on")  # of tests they are off; here a commit is one
        with serving(binaries) as server:
            federation.database = server.fresh()
            federation.start_coordinator()
            yield federation
            federation.__exit__()


async def _measured(federation: LocalFederation, count: int) -> Result:
    process = _process(federation)
    before, began = process.memory_info().rss, time.perf_counter()
    with federation.connection() as connection:
        tokens = [create_join_token(connection).token for _ in range(count)]
    async with crowd(federation.url, tokens, ELEMENTS) as nodes:
        result = {"nodes": float(count), "joins_per_s": count / (time.perf_counter() - began)}
        serving = [asyncio.create_task(node.serve()) for node in nodes]
        await asyncio.sleep(5 + count / 50)  # until every first poll is open
        cpu, began = process.cpu_times().user, time.perf_counter()
        await asyncio.sleep(10)
        result["idle_cpu"] = (process.cpu_times().user - cpu) / (time.perf_counter() - began)
        result["kb_per_node"] = (process.memory_info().rss - before) / count / 1e3
        result |= await _asked(federation, nodes, min(ASKED, count), ROUNDS, "few")
        result |= await _asked(federation, nodes, count, 1, "all")
        result["peak_mb"] = _peak(process)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        return result | await _killed(federation, nodes)


async def _asked(federation: LocalFederation, nodes: list[Node], cohort: int, rounds: int, name: str) -> Result:
    """Rounds that ask so many: latency of assignments in seconds, and contributions per second."""
    cpu, began = time.process_time(), time.time()
    spec = submission(1, ELEMENTS, cohort, len(nodes), rounds)
    run = await asyncio.to_thread(_submitted, federation, spec)
    asked = await asyncio.to_thread(_followed, federation, run)
    told = [each for node in nodes for each in node.told if each[0] == run]
    if len(told) != cohort * rounds:
        raise SystemExit(f"{len(told)} assignments were done of {cohort * rounds}.")
    waits = sorted(at - asked[number] for _, number, at, _ in told)
    seconds = sum(max(done for _, number, _, done in told if number == each) - at for each, at in asked.items())
    return {
        f"{name}_p50_s": statistics.median(waits),
        f"{name}_p99_s": waits[min(len(waits) - 1, len(waits) * 99 // 100)],
        f"{name}_contributions_per_s": len(told) / seconds,
        f"{name}_crowd_cpu": (time.process_time() - cpu) / (time.time() - began),
    }


def _submitted(federation: LocalFederation, spec: runs.Submission) -> str:
    with federation.connection() as connection:
        return runs.submit(connection, spec).id


def _followed(federation: LocalFederation, run: str) -> dict[int, float]:
    """When each round asked, by the coordinator's clock, which is ours; returns once the run is completed."""
    asked: dict[int, float] = {}
    with federation.connection() as connection:
        for event in runs.events(connection, run):
            if event.name == "round_reporting":
                asked.setdefault(event.data["round"], event.data["at"])
            if event.name in ("run_failed", "run_cancelled"):
                raise SystemExit(f"{event.name}: {event.data}")
    return asked


async def _killed(federation: LocalFederation, nodes: list[Node]) -> Result:
    """``kill -9``, and every node is back at once: until it is ready, and until every poll was answered."""
    process = federation.coordinator
    assert process is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.perf_counter()
    answered: list[float] = []

    async def back(node: Node) -> None:
        node.line.away = 0
        await node.poll(0)
        answered.append(time.perf_counter() - began)

    tasks = [asyncio.create_task(back(node)) for node in nodes]
    await asyncio.to_thread(federation.start_coordinator)
    ready = time.perf_counter() - began
    await asyncio.gather(*tasks)
    return {"ready_s": ready, "back_p50_s": statistics.median(answered), "back_last_s": max(answered)}


def _process(federation: LocalFederation) -> psutil.Process:
    assert federation.coordinator is not None
    return psutil.Process(federation.coordinator.pid)


def _peak(process: psutil.Process) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Measure one database, and print what was found as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--database", choices=DATABASES, default="sqlite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, _federation(Path(name), given.database) as federation:
        print(json.dumps(asyncio.run(_measured(federation, given.nodes))))


if __name__ == "__main__":
    main()
