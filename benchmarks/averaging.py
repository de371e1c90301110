"""The averaging itself, way by way, each in a process of its own: ``python -m benchmarks.averaging WAY FOLDER``.

Twenty models of fifty million float32 parameters. Ways that stream get a model at a time, and only the
summing is timed; ways that need all models at once have them before the clock starts.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.averaged import ELEMENTS, FILES, MODELS, SIZE, TENSORS, WEIGHTS, Way, file_of, judge
from benchmarks.payload import model, one_round
from benchmarks.peers.environments import ENVIRONMENTS
from benchmarks.processes import measure
from benchmarks.rounds import Options
from foedus.coordinator.folding import Closing, Given, fold, fold_and_close, on_threads, windows
from foedus.coordinator.part_writer import Window
from foedus.domain.codec import CHUNK, TensorFile, encode, encode_tensors
from foedus.domain.round import FOLD_BLOCK, PhaseOrder, Receipt
from foedus.domain.tree import State
from foedus.engine.round import current_phase
from foedus.strategies.strategy import Phase, Strategy

CLIENTS = {f"c{at:04d}": {"examples": weight} for at, weight in enumerate(WEIGHTS)}
NAMES = tuple(f"layer{at:02d}.weight" for at in range(TENSORS))

Timed = tuple[float, NDArray[np.float32]]


def run(options: Options) -> dict[str, object]:
    """Rates (median), peaks (highest) and errors (largest) of every way, which take turns."""
    flower = ENVIRONMENTS["flower"]
    commands = {name: [sys.executable, "-m", "benchmarks.averaging", way] for name, (way, _) in WAYS.items()}
    if flower.ready:
        theirs = [str(flower.python), "-m", "benchmarks.peers.flower_mean"]
        commands["Flower, `aggregate_arrayrecords`"] = [*theirs, "records"]
        commands["Flower, `strategy.aggregate`"] = [*theirs, "lists"]
    turns: dict[str, list[Mapping[str, float]]] = {name: [] for name in commands}
    failures = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for _ in range(options.repeat):
            for name, command in commands.items():
                measured = measure([*command, folder], {"FLWR_TELEMETRY_ENABLED": "0"})
                if measured.failure:
                    failures[name] = measured.failure
                else:
                    turns[name].append(measured.said)
    rows = [_row(name, taken) for name, taken in turns.items() if taken]
    return {"n": options.repeat, "models": MODELS, "model_mib": SIZE / 2**20, "rows": rows, "failures": failures}


def _row(name: str, turns: list[Mapping[str, float]]) -> dict[str, object]:
    return {
        "way": name,
        "rate": statistics.median(turn["rate"] for turn in turns),
        "peak": max(turn["peak"] for turn in turns),
        "error": max(turn["error"] for turn in turns),
    }


def write(folder: Path) -> None:
    """The updates, and the model that they would change."""
    base = model(TENSORS, ELEMENTS, 0)
    (folder / "model").write_bytes(encode_tensors(base))
    for at in range(FILES):
        moved = {name: tensor + at for name, tensor in base.items()}
        file_of(folder, at).write_bytes(encode(State({"parameters": moved})))


def by_add(folder: Path) -> Timed:
    """``sum.add_(tensor, alpha=weight)``, a model at a time."""
    sums: list[Tensor] = []
    spent = 0.0
    for tensors, weight in _one_at_a_time(folder):
        began = time.perf_counter()
        sums = sums or [torch.zeros_like(tensor) for tensor in tensors.values()]
        for total, tensor in zip(sums, tensors.values(), strict=True):
            total.add_(tensor, alpha=weight / sum(WEIGHTS))
        spent += time.perf_counter() - began
    return spent, sums[0].numpy()


def by_contribution(folder: Path) -> Timed:
    """As a simulation folds: contributions one at a time, in fold blocks."""
    aggregator = _phase().aggregator
    sums, block, spent = aggregator.zero(), aggregator.zero(), 0.0
    for tensors, weight in _one_at_a_time(folder):
        began = time.perf_counter()
        block = aggregator.add(block, {"parameters": tensors}, {"examples": weight})
        if block.count == FOLD_BLOCK:
            sums, block = aggregator.merge(sums, block), aggregator.zero()
        spent += time.perf_counter() - began
    began = time.perf_counter()
    mean = aggregator.finish(aggregator.merge(sums, block))
    return spent + time.perf_counter() - began, mean["parameters"][NAMES[0]].numpy()


def by_file(folder: Path) -> Timed:
    """As a coordinator folds, over files; the mean ends in memory."""
    phase, order = _phase(), PhaseOrder(1, "train", tuple(CLIENTS))
    sizes = dict.fromkeys(NAMES, ELEMENTS)
    updates = {name: TensorFile(file_of(folder, at)) for at, name in enumerate(CLIENTS)}
    mean = {name: torch.empty(ELEMENTS) for name in NAMES}
    given = {name: Given(file_of(folder, at), CLIENTS[name]) for at, name in enumerate(CLIENTS)}
    closing = Closing(_beginning()[0], order, {}, {}, given, ())
    began = time.perf_counter()

    def fold_window(window: Window) -> None:
        aggregate = fold(phase, closing, updates, window).tensors["parameters"]
        for name, span in window.items():
            mean[name][slice(*span)] = aggregate[name]

    on_threads(fold_window, windows(sizes, CHUNK))
    return time.perf_counter() - began, mean[NAMES[0]].numpy()


def by_phase(folder: Path) -> Timed:
    """All that a coordinator does to close a phase: fold, the server's step, and the new model written to a file."""
    order = PhaseOrder(1, "train", tuple(CLIENTS))
    given = {name: Given(file_of(folder, at), CLIENTS[name]) for at, name in enumerate(CLIENTS)}
    receipts = tuple(Receipt(name, weights, {"loss": 1.0}) for name, weights in CLIENTS.items())
    strategy, state = _beginning()
    closing = Closing(strategy, order, {"model": folder / "model"}, state.data, given, receipts)
    began = time.perf_counter()
    closed = fold_and_close(closing, lambda: folder / "closed")
    spent = time.perf_counter() - began
    with TensorFile(folder / "model") as before, TensorFile(closed.parts["model"]) as after:
        return spent, (before[NAMES[0]] - after[NAMES[0]]).numpy()


def _one_at_a_time(folder: Path) -> Iterator[tuple[Mapping[str, Tensor], float]]:
    """Every model in memory, whose place the next one takes."""
    held = {name: torch.empty(ELEMENTS) for name in NAMES}
    for at, weight in enumerate(WEIGHTS):
        with TensorFile(file_of(folder, at)) as file:
            for name in NAMES:
                held[name].copy_(file[f"parameters/{name}"])
        yield held, weight


def _beginning() -> tuple[Strategy, State]:
    """One round of FedAvg, and its state without elements."""
    strategy = one_round(TENSORS, ELEMENTS, MODELS)
    return strategy, strategy.init({name: torch.empty(0) for name in NAMES})


def _phase() -> Phase:
    return current_phase(*_beginning())


WAYS: Mapping[str, tuple[str, Way]] = {
    "plain `add_`, a model at a time": ("plain", by_add),
    "foedus, simulation: a contribution at a time": ("contribution", by_contribution),
    "foedus, coordinator: from files": ("file", by_file),
    "foedus, coordinator: closing a phase, the new model written": ("phase", by_phase),
}


def main(way: str, folder: str) -> None:
    """Go one way."""
    torch.set_num_threads(1)
    judge(dict(WAYS.values())[way], Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
