"""The live path: a 200 MB model to four nodes and back, beside a plain HTTP file server with the same clients."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.payload import ELEMENTS, TENSORS, model, submission
from benchmarks.rounds import Options
from foedus.cli.local_federation import LocalFederation, local_federation
from foedus.client import runs
from foedus.client.admin import create_join_token
from foedus.domain.codec import encode_tensors

PEERS = 4
SIZE = TENSORS * ELEMENTS * 4

Result = dict[str, float]


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


def blobs() -> Result:
    """MB/s each way, and the coordinator's memory, with four nodes at once."""
    result: Result = {"model_mb": SIZE / 1e6}
    with tempfile.TemporaryDirectory() as name, coordinator(Path(name) / "federation") as (federation, process):
        result["idle_mb"] = process.memory_info().rss / 1e6
        with federation.connection() as connection:
            tokens = [create_join_token(connection).token for _ in range(PEERS)]
            with _peers(Path(name), federation.url, tokens) as peers:
                run = runs.submit(connection, submission(TENSORS, ELEMENTS, PEERS, PEERS)).id
                result["submitted_mb"] = peak(process)
                result |= _rates(peers, "")
            result["round_s"] = _completed(federation, run)
        result["peak_mb"] = peak(process)
    with (
        tempfile.TemporaryDirectory() as name,
        _file_server(Path(name)) as url,
        _peers(Path(name), url, [""] * PEERS) as peers,
    ):
        result |= _rates(peers, "plain_")
    return result


@contextmanager
def _peers(folder: Path, url: str, tokens: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    processes = []
    for at, token in enumerate(tokens):
        home = folder / f"peer{at}{'' if token else '-plain'}"
        home.mkdir()
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


def _rates(peers: list[subprocess.Popen[str]], prefix: str) -> Result:
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
    total = len(peers) * SIZE / 1e6
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
def _file_server(folder: Path) -> Iterator[str]:
    served = folder / "served"
    served.mkdir()
    (served / "model").write_bytes(encode_tensors(model(TENSORS, ELEMENTS, 0)))
    command = [sys.executable, "-m", "benchmarks.fileserver", str(served)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def run(options: Options) -> dict[str, object]:
    """It is measured once."""
    return dict(blobs())
