"""The streaming fold gives the bits of the in-memory one, for every server optimizer and any slice limit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.coordinator import folding
from foedus.coordinator.folding import (
    THREADS,
    Closed,
    Closing,
    Given,
    begin,
    digest_of_model,
    fold_and_close,
    on_threads,
    windows,
)
from foedus.domain.codec import TensorFile, encode, encode_tensors
from foedus.domain.errors import IntegrityError
from foedus.domain.plan import ModelManifest, ModelTensor
from foedus.domain.round import Aggregate, Contribution, PhaseOrder, PhaseRecord, Receipt
from foedus.domain.run import parse_spec
from foedus.domain.tree import State, Tensors, model_digest, names_of_dtypes, same
from foedus.engine.kernels import Outcome, fold_outcomes
from foedus.engine.round import close_phase, current_phase
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import RunContext, Strategy

SERVERS: list[dict[str, Any]] = [
    {"optimizer": "sgd", "lr": 1.0},
    {"optimizer": "sgd", "lr": 0.3, "momentum": 0.9},
    {"optimizer": "adam", "lr": 0.01},
    {"optimizer": "yogi", "lr": 0.01},
]
KINDS = {
    "long": "parameter",
    "half": "parameter",
    "one": "parameter",
    "still": "frozen",
    "mean": "buffer",
    "n": "buffer",
}
CLIENTS = tuple(f"c{number:04d}" for number in range(23))
ABSENT = {"c0003", "c0010", "c0017"}


def model() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return {
        "long": torch.randn(41, 11, generator=rng),
        "half": torch.randn(301, generator=rng).to(torch.bfloat16),
        "one": torch.tensor(0.7),
        "still": torch.randn(5, generator=rng),
        "mean": torch.randn(19, generator=rng, dtype=torch.float64),
        "n": torch.tensor(4, dtype=torch.int64),
    }


class Places:
    """New files in a folder, numbered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = itertools.count()

    def __call__(self) -> Path:
        return self._folder / f"part{next(self._count)}"


COLUMNS: list[dict[str, Any]] = [
    {"name": "median"},
    {"name": "trimmed_mean", "trim": 0.1},
    {"name": "trimmed_mean", "trim": 0.4},
]


def strategy_of(server: dict[str, Any], initial: Tensors, aggregator: dict[str, Any] | None = None) -> Strategy:
    local = {"lr": 0.1, "epochs": 1, "batch_size": 10}
    table = {
        "plan": "plan.py",
        "rounds": 5,
        "strategy": {"name": "fedavg", "local": local, "server": server, "aggregator": aggregator or {"name": "mean"}},
        "cohort": {"size": len(CLIENTS)},
        "data": {"name": "digits", "partition": {"name": "iid", "clients": len(CLIENTS)}},
    }
    rows = [ModelTensor(n, tuple(t.shape), names_of_dtypes[t.dtype], KINDS[n], "Net") for n, t in initial.items()]
    return build(RunContext(parse_spec(table), ModelManifest(tuple(rows), {"loss": "min"})))


def contributions(initial: Tensors) -> dict[str, Contribution]:
    rng = torch.Generator().manual_seed(7)
    found = {}
    for client in CLIENTS:
        parts: dict[str, dict[str, torch.Tensor]] = {"parameters": {}, "buffers": {}}
        for name, tensor in initial.items():
            if KINDS[name] == "frozen":
                continue
            noise = torch.randn(tensor.shape, generator=rng, dtype=torch.float64) * 3
            parts["buffers" if KINDS[name] == "buffer" else "parameters"][name] = noise.to(tensor.dtype)
        weight = float(torch.randint(1, 500, (), generator=rng))
        if client not in ABSENT:
            found[client] = Contribution(client, parts, {"examples": weight}, {"loss": weight / 7})
    return found


def in_memory(strategy: Strategy, state: State, given: dict[str, Contribution]) -> tuple[State, PhaseRecord]:
    """As the simulation does it."""
    phase, order = current_phase(strategy, state), PhaseOrder(1, "train", CLIENTS)
    sums, receipts = phase.aggregator.zero(), list[Receipt]()
    for block in order.blocks:
        outcomes = [
            Outcome(client, given.get(client), State(), "" if client in given else "absent") for client in block
        ]
        result = fold_outcomes(phase, outcomes)
        sums = phase.aggregator.merge(sums, result.sums)
        receipts.extend(result.receipts)
    return close_phase(strategy, state, order, Aggregate(phase.aggregator.finish(sums), sums.count), receipts)


def on_disk(strategy: Strategy, given: dict[str, Contribution], folder: Path, limit: int) -> Closed:
    (folder / "model").write_bytes(encode_tensors(model()))
    for name in ("began", "closed"):
        (folder / name).mkdir()
    for client, contribution in given.items():
        (folder / client).write_bytes(encode(State(contribution.update)))
    data, parts = begin(strategy, folder / "model", Places(folder / "began"), limit)
    files = {client: Given(folder / client, contribution.weights) for client, contribution in given.items()}
    receipts = [
        Receipt(client, given[client].weights, given[client].metrics) if client in given
        else Receipt(client, {}, {}, failure="absent")
        for client in CLIENTS
    ]  # fmt: skip
    closing = Closing(strategy, PhaseOrder(1, "train", CLIENTS), parts, data, files, tuple(receipts))
    return fold_and_close(closing, Places(folder / "closed"), limit)


def read(path: Path) -> dict[str, torch.Tensor]:
    with TensorFile(path) as file:
        return dict(file)


@pytest.mark.parametrize("limit", [64, 192, 1 << 20])
@pytest.mark.parametrize("server", SERVERS, ids=lambda server: f"{server['optimizer']}-{server.get('momentum', 0)}")
def test_the_streaming_fold_has_the_bits_of_the_in_memory_one(
    server: dict[str, Any], limit: int, tmp_path: Path
) -> None:
    strategy, given = strategy_of(server, model()), contributions(model())
    state, record = in_memory(strategy, strategy.init(model()), given)
    closed = on_disk(strategy, given, tmp_path, limit)
    assert closed.parts.keys() == state.tensors.keys()
    for part, tensors in state.tensors.items():
        assert same(read(closed.parts[part]), dict(tensors)), part
    assert closed.data == state.data
    assert closed.record.metrics == record.metrics
    assert digest_of_model(closed.parts["model"], limit) == model_digest(state.tensors["model"])


@pytest.mark.parametrize("limit", [64, 1 << 20])
@pytest.mark.parametrize("rule", COLUMNS, ids=lambda rule: f"{rule['name']}-{rule.get('trim', 0)}")
def test_aggregation_by_columns_in_windows_has_the_bits_of_whole_tensors(
    rule: dict[str, Any], limit: int, tmp_path: Path
) -> None:
    strategy, given = strategy_of(SERVERS[2], model(), rule), contributions(model())
    state, _ = in_memory(strategy, strategy.init(model()), given)
    closed = on_disk(strategy, given, tmp_path, limit)
    for part, tensors in state.tensors.items():
        assert same(read(closed.parts[part]), dict(tensors)), part


def test_by_columns_the_rows_of_a_window_hold_no_more_elements_than_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, given, seen = strategy_of(SERVERS[0], model(), {"name": "median"}), contributions(model()), list[int]()
    monkeypatch.setattr(folding, "COLUMNS", 64 * len(given))
    sort = torch.sort

    def counted(rows: torch.Tensor, **how: Any) -> Any:
        seen.append(rows.numel())
        return sort(rows, **how)

    monkeypatch.setattr(torch, "sort", counted)
    closed = on_disk(strategy, given, tmp_path, 1 << 20)
    assert max(seen) <= 64 * len(given)
    assert len(seen) > sum(tensor.numel() for tensor in model().values()) // 64
    monkeypatch.undo()
    state, _ = in_memory(strategy, strategy.init(model()), given)
    assert same(read(closed.parts["model"]), dict(state.tensors["model"]))


def test_the_model_has_moved_where_it_should_and_nowhere_else(tmp_path: Path) -> None:
    closed = on_disk(strategy_of(SERVERS[0], model()), contributions(model()), tmp_path, 64)
    after, before = read(closed.parts["model"]), model()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert moved == set(KINDS) - {"still"}
    assert {name: tensor.dtype for name, tensor in after.items()} == {n: t.dtype for n, t in before.items()}


def test_a_redo_writes_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        closed = on_disk(strategy_of(SERVERS[2], model()), contributions(model()), tmp_path / attempt, 128)
        written.append({part: path.read_bytes() for part, path in closed.parts.items()})
    assert written[0] == written[1]


def test_a_test_phase_leaves_every_part_as_it_is(tmp_path: Path) -> None:
    strategy = strategy_of(SERVERS[1], model())
    (tmp_path / "model").write_bytes(encode_tensors(model()))
    data, parts = begin(strategy, tmp_path / "model", Places(tmp_path))
    receipts = (Receipt("c0000", {"examples": 3.0}, {"loss": 2.0}), Receipt("c0001", {"examples": 1.0}, {"loss": 6.0}))
    order = PhaseOrder(1, "test", ("c0000", "c0001"))
    given = {receipt.client: Given(None, receipt.weights) for receipt in receipts}
    closed = fold_and_close(Closing(strategy, order, parts, {**data, "phase": 1}, given, receipts), Places(tmp_path))
    assert not closed.parts
    assert closed.record.metrics == {"loss": 3.0}
    assert closed.data["phase"] == 2


def test_an_update_that_was_cut_on_disk_is_an_error_and_not_a_model(tmp_path: Path) -> None:
    strategy, given = strategy_of(SERVERS[0], model()), contributions(model())
    on_disk(strategy, given, tmp_path, 64)
    update = tmp_path / "c0000"
    update.write_bytes(update.read_bytes()[:-8])
    files = {client: Given(tmp_path / client, given[client].weights) for client in given}
    data, parts = begin(strategy, tmp_path / "model", Places(tmp_path / "began"))
    closing = Closing(strategy, PhaseOrder(1, "train", CLIENTS), parts, data, files, ())
    with pytest.raises(IntegrityError) as refused:
        fold_and_close(closing, Places(tmp_path))
    assert refused.value.code == "not_safetensors"


def test_windows_cover_every_element_once() -> None:
    sizes = {"a": 10, "b": 0, "c": 3, "d": 25, "e": 1}
    seen: dict[str, list[int]] = {name: [] for name in sizes}
    for window in windows(sizes, 8):
        assert sum(stop - start for start, stop in window.values()) <= 8
        for name, (start, stop) in window.items():
            seen[name].extend(range(start, stop))
    assert seen == {name: list(range(size)) for name, size in sizes.items()}


def test_threads_take_every_window_once() -> None:
    each, seen = list(windows({"a": 1000}, 8)), list[tuple[int, int]]()
    on_threads(lambda window: seen.append(window["a"]), each)
    assert sorted(seen) == [window["a"] for window in each]


def test_after_an_error_in_one_thread_the_others_begin_nothing_more() -> None:
    begun = []

    def work(window: object) -> None:
        begun.append(window)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        on_threads(work, windows({"a": 100_000}, 8))
    assert len(begun) <= THREADS
