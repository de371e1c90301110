"""Who takes part: the bare loops, foedus with its kernels and executors, and every peer that is installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.definitions import Job
from benchmarks.peers.environments import ENVIRONMENTS, FOLDER

BARE, BARE_2, AUTO = "bare loop", "bare loop, 2 processes", "foedus, the defaults"


@dataclass(frozen=True)
class Runner:
    """``command`` with ``arguments`` after the job's folder and the file for the parameters; ``peer`` names it.

    ``all_clients``: it can only ask every client in every round. ``part``: it shows what a part of foedus gives, which
    one job more does not need.
    """

    name: str
    command: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""
    all_clients: bool = False
    part: bool = False

    def line(self, folder: Path, out: Path) -> list[str]:
        """The whole command line."""
        return [*self.command, str(folder), str(out), *self.arguments]

    def takes(self, job: Job) -> bool:
        """Whether it can run a job here."""
        there = not self.peer or ENVIRONMENTS[self.peer].ready
        return there and (not self.all_clients or job.cohort == job.clients) and not (self.part and job.name == "flute")


def _bare(name: str, *arguments: str) -> Runner:
    return Runner(name, (sys.executable, "-m", "benchmarks.bare"), arguments)


def _ours(name: str, kernel: str, executor: str) -> Runner:
    line = (sys.executable, "-m", "benchmarks.ours")
    return Runner(name, line, (kernel, executor), part=(kernel, executor) != ("auto", "auto"))


def _peer(name: str, peer: str, command: str, *arguments: str, all_clients: bool = False) -> Runner:
    environment = ENVIRONMENTS[peer]
    first, *rest = command.split()
    line = (str(environment.folder / "bin" / first), *rest)
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_HOME": str(FOLDER / "flower-home"),
        "PYTHONWARNINGS": "ignore",
    }
    return Runner(name, line, arguments, quiet, peer, all_clients)


ALONE = "--rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 --local-addr=127.0.0.1"
"""So that torchrun takes a free port of this machine."""

REFERENCE = _bare("float64", "1", "float64")

RUNNERS = (
    _bare(BARE, "1"),
    _bare(BARE_2, "2"),
    _ours("foedus, eager inline", "eager", "inline"),
    _ours("foedus, eager workers", "eager", "workers"),
    _ours("foedus, graph inline", "graph", "inline"),
    _ours("foedus, graph workers", "graph", "workers"),
    _ours(AUTO, "auto", "auto"),
    _peer("pfl", "pfl", "python -m benchmarks.peers.pfl"),
    _peer("pfl, 2 workers", "pfl", f"torchrun {ALONE} --nproc-per-node=2 -m benchmarks.peers.pfl"),
    _peer("Flower, 2 actors", "flower", "python -m benchmarks.peers.flower", "2"),
    _peer("FedLab", "fedlab", "python -m benchmarks.peers.fedlab"),
    _peer("FedJAX", "fedjax", "python -m benchmarks.peers.fedjax"),
    _peer("NVFlare simulator", "nvflare", "python -m benchmarks.peers.nvflare", all_clients=True),
)


def absent() -> list[str]:
    """The peers that are not installed."""
    return [name for name, environment in ENVIRONMENTS.items() if not environment.ready]
