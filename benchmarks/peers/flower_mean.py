"""Flower's two ways to average, which hold all models at once: ``… -m benchmarks.peers.flower_mean WAY FOLDER``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict  # type: ignore[import-not-found]
from flwr.server.strategy.aggregate import aggregate  # type: ignore[import-not-found]
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords  # type: ignore[import-not-found]
from numpy.typing import NDArray

from benchmarks.averaged import WEIGHTS, judge, read


def records(folder: Path) -> tuple[float, NDArray[np.float32]]:
    """``aggregate_arrayrecords``."""
    given = []
    for at, weight in enumerate(WEIGHTS):
        arrays = ArrayRecord({str(place): Array(array) for place, array in enumerate(read(folder, at))})
        given.append(RecordDict({"arrays": arrays, "metrics": MetricRecord({"examples": weight})}))
    began = time.perf_counter()
    mean = aggregate_arrayrecords(given, "examples")
    first = mean["0"].numpy()
    return time.perf_counter() - began, first


def lists(folder: Path) -> tuple[float, NDArray[np.float32]]:
    """``strategy.aggregate.aggregate``."""
    given = [(read(folder, at), int(weight)) for at, weight in enumerate(WEIGHTS)]
    began = time.perf_counter()
    mean = aggregate(given)
    return time.perf_counter() - began, mean[0]


def main(way: str, folder: str) -> None:
    """Go one way."""
    judge({"records": records, "lists": lists}[way], Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
