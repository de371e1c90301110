"""Simulated clients are prepared when they are asked for, and few are kept: a million cost what a cohort costs."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import torch

from foedus.data.dataset import Columns
from foedus.data.population import Federation, Generated, federation
from foedus.domain.errors import DataError, FoedusError
from foedus.engine.choice import Engine
from foedus.engine.clients import MIB, Clients
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import simulate, simulate_on
from tests.plans import prepared

EAGER = Engine("eager", "inline")


def _columns(place: int) -> Columns:
    generator = torch.Generator().manual_seed(place)
    return {"image": torch.rand(20, 64, generator=generator) * 16, "label": torch.arange(20) % 10}


def _ready(folder: Path, **changes: object) -> Prepared:
    data = {"name": "digits", "partition": {"name": "iid", "clients": 4}, **changes}
    return prepared(folder, data=data, rounds=3, cohort={"size": 5})


def test_of_a_million_clients_only_the_cohorts_are_read(tmp_path: Path) -> None:
    read: list[int] = []

    def function(place: int) -> Columns:
        read.append(place)
        return _columns(place)

    result = simulate_on(_ready(tmp_path), federation(Generated(10**6, function)), EAGER)
    cohorts = [record.phases[0].asked for record in result.rounds]
    assert all(len(cohort) == 5 and list(cohort) == sorted(cohort) for cohort in cohorts)
    asked = {int(name[1:]) for record in result.rounds for phase in record.phases for name in phase.asked}
    assert asked <= set(read)
    assert len(set(read)) <= len(asked) + 16


def test_a_mapping_gives_the_same_bits_as_the_same_clients_on_demand(tmp_path: Path) -> None:
    lazy = federation(Generated(30, _columns))
    whole = Federation({name: lazy.clients[name] for name in lazy.names})
    digests = {simulate_on(_ready(tmp_path), clients, EAGER).model_digest for clients in (lazy, whole)}
    assert len(digests) == 1


def test_the_clients_asked_for_last_are_kept_up_to_the_limit(tmp_path: Path) -> None:
    read: list[int] = []

    def function(place: int) -> Columns:
        read.append(place)
        return {"image": torch.zeros(1000, 64), "label": torch.zeros(1000)}

    clients = Clients(_ready(tmp_path, cache=1), federation(Generated(100, function)))
    names = clients.federation.names
    for at in (0, 1, 2, 0, 3, 0, 1):
        assert clients(names[at]).name == names[at]
        assert clients.held <= MIB
    assert read == [0, 1, 2, 3, 1]


def test_one_client_larger_than_the_limit_is_kept_alone(tmp_path: Path) -> None:
    clients = Clients(
        _ready(tmp_path, cache=1),
        federation([{"image": torch.zeros(5000, 64), "label": torch.zeros(5000)}, _columns(1)]),
    )
    assert clients("c0000") is clients("c0000")
    clients("c0001")
    assert list(clients.ready) == ["c0001"]


@pytest.mark.parametrize("kernel", ["eager", "graph"])
def test_clients_with_few_examples_one_or_none_take_part_as_they_can(kernel: str, tmp_path: Path) -> None:
    clients = [{name: column[:size] for name, column in _columns(size).items()} for size in (0, 1, 3)]
    clients.append(
        {
            name: column.repeat(2, 1)[:25] if column.ndim == 2 else column.repeat(2)[:25]
            for name, column in _columns(9).items()
        }
    )
    ready = prepared(
        tmp_path,
        rounds=1,
        cohort={"size": 4},
        test={"ratio": 0.4},
        data={"name": "digits", "partition": {"name": "iid", "clients": 4}},
    )
    result = simulate_on(ready, federation(clients), Engine(kernel, "inline"))
    train, test = result.rounds[0].phases
    assert [receipt.weights.get("examples", 0) for receipt in train.receipts] == [0, 1, 2, 15]
    assert [receipt.weights.get("examples", 0) for receipt in test.receipts] == [0, 0, 1, 10]
    failures = [receipt.failure.partition(":")[0] for receipt in (*train.receipts, *test.receipts)]
    assert failures == ["no_examples", "", "", "", "no_examples", "no_examples", "", ""]


def test_a_part_for_validation_is_kept_from_training_and_testing_in_every_round(tmp_path: Path) -> None:
    ready = prepared(tmp_path, test={"ratio": 0.2, "validation": 0.3}, rounds=3)
    result = simulate(ready, EAGER)
    clients = Clients(ready, federation([_columns(0)]))
    data = clients("c0000")
    assert (len(data.train), len(data.test), len(data.validation)) == (10, 4, 6)
    rows = [tuple(row) for part in (data.train, data.test, data.validation) for row in part.inputs.tolist()]
    assert len(set(rows)) == 20
    for record in result.rounds:
        train, validation, test = record.phases
        assert (validation.phase, len(validation.receipts)) == ("validation", 4)
        assert {"validation/loss", "validation/accuracy"} <= set(record.metrics)
        kept = [
            t.weights["examples"] + e.weights["examples"] for t, e in zip(train.receipts, test.receipts, strict=True)
        ]
        assert sum(kept) < 0.72 * 1438


def test_a_vertical_partition_is_refused_before_anything_runs(tmp_path: Path) -> None:
    data = {"name": "breast_cancer", "partition": {"name": "vertical", "clients": 3}}
    with pytest.raises(DataError) as refusal:
        simulate(prepared(tmp_path, data=data), EAGER)
    assert refusal.value.code == "partition_vertical"


def _parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    images = [row for place in range(8) for row in _columns(place)["image"].tolist()]
    table = {"user": [f"u{at // 20}" for at in range(160)], "image": images, "label": [at % 10 for at in range(160)]}
    parquet.write_table(pyarrow.table(table), path, row_group_size=40)


def _sqlite(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE digits (user TEXT, image BLOB, label INTEGER)")
        rows = [(f"u{at // 20}", bytes((at * 7 + k) % 17 for k in range(64)), at % 10) for at in range(160)]
        database.executemany("INSERT INTO digits VALUES (?, ?, ?)", rows)
        database.execute("CREATE INDEX by_user ON digits (user)")
    database.close()


@pytest.mark.parametrize("name", ["parquet", "sqlite"])
def test_work_processes_read_clients_from_the_same_file(name: str, tmp_path: Path) -> None:
    {"parquet": _parquet, "sqlite": _sqlite}[name](tmp_path / "data")
    options = {"table": "digits"} if name == "sqlite" else {}
    data = {"name": name, "file": "data", "client": "user", "options": options}
    ready = prepared(tmp_path, data=data, cohort={"size": 3}, rounds=4)
    results = [simulate(ready, Engine("eager", executor, 2)) for executor in ("inline", "workers")]
    assert results[0].model_digest == results[1].model_digest
    assert {name for record in results[0].rounds for name in record.phases[0].asked} <= {f"u{at}" for at in range(8)}
    assert not any(receipt.failure for record in results[1].rounds for receipt in record.phases[0].receipts)


def test_a_client_whose_data_are_bad_is_named_and_the_round_goes_on(tmp_path: Path) -> None:
    def function(place: int) -> Columns:
        if place == 2:
            raise OSError("the disk of c0002 is gone")
        columns = _columns(place)
        return {**columns, "image": columns["image"] / 0} if place == 3 else columns

    ready = _ready(tmp_path)
    record = simulate_on(ready, federation(Generated(5, function)), EAGER).rounds[0].phases[0]
    failures = [receipt.failure for receipt in record.receipts]
    assert [failure.partition(":")[0] for failure in failures] == [
        "",
        "",
        "client_unreadable",
        "dataset_not_finite",
        "",
    ]
    assert "the disk of c0002 is gone" in failures[2]


def test_data_that_are_bad_for_everybody_are_refused_before_round_1(tmp_path: Path) -> None:
    def function(place: int) -> Columns:
        raise KeyError(place)

    with pytest.raises(FoedusError) as refusal:
        simulate_on(_ready(tmp_path), federation(Generated(5, function)), EAGER)
    assert refusal.value.code == "client_unreadable"
