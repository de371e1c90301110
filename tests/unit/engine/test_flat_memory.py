"""Memory stays flat over the rounds of a run: receipts go to rounds.jsonl, and only short rows stay."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from foedus.data.population import Generated, federation
from foedus.domain.rng import generator
from foedus.domain.round import RoundRecord
from foedus.domain.tree import Tensors
from foedus.engine.choice import Engine
from foedus.engine.folder import RunFolder
from foedus.engine.keeping import Keeping
from foedus.engine.records import Recent
from foedus.engine.simulate import simulate_on
from tests.plans import prepared
from tests.unit.engine.test_records import record

TINY = """
import torch
from torch import nn


def model():
    return nn.Linear(4, 2)


def loss(output, target):
    return nn.functional.cross_entropy(output, target)


def prepare(columns):
    return columns["x"], columns["y"]
"""
POPULATION, COHORT = 400, 100


def columns(place: int) -> dict[str, Tensor]:
    rng = generator(3, 0, str(place), "examples")
    return {"x": torch.rand(4, 4, generator=rng), "y": torch.randint(2, (4,), generator=rng)}


class Memory:
    """Megabytes that this process holds, after the ``first`` round and now."""

    def __init__(self, first: int) -> None:
        self.first, self.before, self.after = first, 0.0, 0.0

    def round(self, record: RoundRecord) -> None:
        self.after = psutil.Process(os.getpid()).memory_info().rss / 1e6
        if record.round == self.first:
            self.before = self.after

    def finished(self, model: Tensors) -> None: ...


def _run(folder: Path, rounds: int, first: int, pipe: Connection) -> None:
    ready = prepared(
        folder,
        TINY,
        rounds=rounds,
        cohort={"size": COHORT},
        strategy={"name": "fedavg", "local": {"lr": 0.1, "batch_size": 4}, "server": {"optimizer": "adam", "lr": 0.01}},
        data={"name": "digits", "partition": {"name": "iid", "clients": POPULATION}},
        checkpoint={"every": max(rounds // 4, 1)},
    )
    (folder / "run").mkdir()
    kept, memory = RunFolder(folder / "run", ready.spec, ready.bundle), Memory(first)
    clients = federation(Generated(POPULATION, columns))
    result = simulate_on(
        ready, clients, Engine("graph", "inline"), [kept, memory], Keeping(kept, ready.spec.checkpoint)
    )
    pipe.send((memory.before, memory.after, len(kept.history.rows), len(result.rounds)))


def grown(folder: Path, rounds: int, first: int) -> float:
    """Megabytes that a process's memory grew by between the ``first`` round and the last."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(folder, rounds, first, there))
    process.start()
    there.close()
    before, after, rows, records = here.recv()
    process.join()
    here.close()
    assert rows == rounds
    assert records <= 100
    assert before > 0
    return float(after - before)


def test_a_hundred_rounds_of_a_hundred_clients_grow_by_little(tmp_path: Path) -> None:
    assert grown(tmp_path, 220, 120) < 8


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_rounds_are_flat(tmp_path: Path) -> None:
    assert grown(tmp_path, 10_000, 200) < 50


def test_the_last_records_are_kept_and_always_one() -> None:
    recent = Recent(limit=12)
    for number in range(1, 10):
        recent.add(record(number))
    assert [each.round for each in recent.records] == [8, 9]
    small = Recent(limit=1)
    small.add(record(1))
    small.add(record(2))
    assert [each.round for each in small.records] == [2]
