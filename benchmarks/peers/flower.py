"""Flower on a job: a ServerApp and a ClientApp on its Ray backend, ``ACTORS`` clients at a time."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict  # type: ignore[import-not-found]
from flwr.serverapp import ServerApp  # type: ignore[import-not-found]
from flwr.serverapp.strategy import FedAvg  # type: ignore[import-not-found]
from flwr.simulation import run_simulation  # type: ignore[import-not-found]

from benchmarks.exported import Arrays, Clock, Exported, read, report
from benchmarks.peers.flower_client import client_app
from benchmarks.peers.network import loaded


class Cohorts(FedAvg):  # type: ignore[misc]
    """FedAvg whose ``i``-th node plays the ``i``-th client of each round's cohort."""

    def __init__(self, data: Exported) -> None:
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0)
        self.data, self.clock = data, Clock()

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> list[Message]:
        """Ask the round's cohort."""
        while len(nodes := list(grid.get_node_ids())) < self.data.job.cohort:
            time.sleep(0.05)
        self.clock.start()
        return [
            Message(
                RecordDict({"arrays": arrays, "config": ConfigRecord({"round": server_round - 1, "place": place})}),
                node,
                MessageType.TRAIN,
            )
            for place, node in enumerate(nodes)
        ]

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        """Aggregate as FedAvg does; the round has ended."""
        aggregated = super().aggregate_train(server_round, replies)
        self.clock.round()
        return aggregated


def run(data: Exported, actors: int) -> tuple[Clock, Arrays]:
    """Train; returns the times and the final parameters."""
    strategy, final = Cohorts(data), {}
    server_app = ServerApp()

    @server_app.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: object) -> None:
        result = strategy.start(grid, ArrayRecord(loaded(data).state_dict()), num_rounds=data.job.rounds)
        final.update({name: array.numpy() for name, array in result.arrays.items()})

    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": actors, "include_dashboard": False, "log_to_driver": False},
    }
    run_simulation(server_app, client_app, num_supernodes=data.job.cohort, backend_config=backend)
    return strategy.clock, final


def main(folder: str, out: str, actors: str) -> None:
    """Run, and report."""
    report(Path(out), *run(read(Path(folder)), int(actors)))


if __name__ == "__main__":
    main(*sys.argv[1:])
