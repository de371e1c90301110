"""The live path: models to nodes and back, beside a plain HTTP file server with the same clients.

``blobs``: 200 MB to four nodes. ``streams``: 2 GB to eight, who stream it from and to a file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.payload import ELEMENTS, TENSORS, model, submission, write_update
from benchmarks.rounds import Options
from foedus.cli.local_federation import LocalFederation, local_federation
from foedus.client import runs
from foedus.client.admin import create_join_token
from foedus.domain.codec import encode_tensors

Result = dict[str, float]


@dataclass(frozen=True)
class Load:
    """So many nodes, and a model of :data:`TENSORS` float32 tensors of so many elements."""

    peers: int
    elements: int

    @property
    def size(self) -> int:
        """The model's bytes."""
        return TENSORS * self.elements * 4


SMALL, LARGE = Load(4, ELEMENTS), Load(8, 10 * ELEMENTS)


@contextmanager
def coordinator(folder: Path) -> Iterator[tuple[LocalFederation, psutil.Process]]:
    """A coordinator process alone, and the process that serves."""
    with local_federation(folder) as federation:
        federation.start_coordinator()
        started = psutil.Process(federation.processes[0].pid)
        yield federation, max([started, *started.children(recursive=True)], key=lambda each: each.memory_info().rss)


def peak(process: psutil.Process) -> float:
    """The most memory that a process ever had, in MB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))


def blobs(load: Load) -> Result:
    """MB/s each way, and the coordinator's memory, with all nodes at once."""
    result: Result = {"nodes": load.peers, "model_mb": load.size / 1e6}
    with tempfile.TemporaryDirectory() as name, coordinator(Path(name) / "federation") as (federation, process):
        result["idle_mb"] = process.memory_info().rss / 1e6
        with federation.connection() as connection:
            tokens = [create_join_token(connection).token for _ in range(load.peers)]
            with _peers(Path(name), federation.url, tokens, load) as peers:
                run = runs.submit(connection, submission(TENSORS, load.elements, load.peers, load.peers)).id
                result["submitted_mb"] = peak(process)
                result |= _rates(peers, load, "")
            result["round_s"] = _completed(federation, run)
        result["peak_mb"] = peak(process)
    with (
        tempfile.TemporaryDirectory() as name,
        _file_server(Path(name), load) as url,
        _peers(Path(name), url, [""] * load.peers, load) as peers,
    ):
        result |= _rates(peers, load, "plain_")
    return result


@contextmanager
def _peers(folder: Path, url: str, tokens: list[str], load: Load) -> Iterator[list[subprocess.Popen[str]]]:
    """Nodes, each with an update in a file; the large one is the same for all, to spare the disk."""
    processes, shared = [], folder / "update"
    for at, token in enumerate(tokens):
        home = folder / f"peer{at}{'' if token else '-plain'}"
        home.mkdir()
        if load is LARGE:
            if not at:
                write_update(shared, "shared", load.elements)
            (home / "update").hardlink_to(shared)
        command = [sys.executable, "-m", "benchmarks.peer", url, f"c{at:04d}", str(home), *([token] if token else [])]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    try:
        for process in processes:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit("A peer failed.")
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _rates(peers: list[subprocess.Popen[str]], load: Load, prefix: str) -> Result:
    """Let the peers go, and MB/s over all of them, from the first one's beginning to the last one's end."""
    for peer in peers:
        assert peer.stdin is not None
        peer.stdin.write("go\n")
        peer.stdin.flush()
    times = []
    for peer in peers:
        assert peer.stdout is not None
        line = peer.stdout.readline()
        if not line:
            raise SystemExit("A peer failed.")
        times.append(json.loads(line))
    total = len(peers) * load.size / 1e6
    return {
        f"{prefix}{way}_mb_s": total / (max(t[f"{way}_end"] for t in times) - min(t[way] for t in times))
        for way in ("down", "up")
    }


def _completed(federation: LocalFederation, run: str) -> float:
    """Seconds until the run is completed, after the last node has contributed."""
    began = time.perf_counter()
    with federation.connection() as connection:
        while (status := runs.show(connection, run).status) not in ("completed", "failed"):
            time.sleep(0.1)
    if status != "completed":
        raise SystemExit(f"The run {status}.")
    return time.perf_counter() - began


@contextmanager
def _file_server(folder: Path, load: Load) -> Iterator[str]:
    served = folder / "served"
    served.mkdir()
    (served / "model").write_bytes(encode_tensors(model(TENSORS, load.elements, 0)))
    command = [sys.executable, "-m", "benchmarks.fileserver", str(served)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def run(options: Options) -> dict[str, object]:
    """It is measured once."""
    return dict(blobs(SMALL))


def streams(options: Options) -> dict[str, object]:
    """It is measured once."""
    return dict(blobs(LARGE))
