"""What :mod:`benchmarks.peers.nvflare` runs for a client: site ``k`` plays the ``k``-th client, and keeps its times."""

from __future__ import annotations

import os
import time
from pathlib import Path

import nvflare.client as flare  # type: ignore[import-not-found]
import torch
from torch import nn

from benchmarks.exported import read
from benchmarks.peers.network import loaded, train

FOLDER = Path(os.environ["BENCH_JOB"])


class Network(nn.Sequential):
    """The job's network as a class without arguments, which NVFlare makes again by its path."""

    def __init__(self) -> None:
        super().__init__(*loaded(read(FOLDER)).children())


def main() -> None:
    """Train whenever the server asks, until it has finished."""
    torch.set_num_threads(1)
    flare.init()
    data = read(FOLDER)
    network, place = loaded(data), int(flare.get_site_name().split("-")[1]) - 1
    while flare.is_running():
        asked = flare.receive()
        network.load_state_dict({name: torch.as_tensor(array) for name, array in asked.params.items()})
        rows = data.order(asked.current_round, place)
        train(data, network, rows)
        with Path(os.environ["BENCH_STAMPS"]).open("a") as stamps:
            stamps.write(f"{asked.current_round} {time.time()}\n")
        flare.send(flare.FLModel(params=network.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": len(rows)}))


if __name__ == "__main__":
    main()
