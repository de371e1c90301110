"""Every schedule gives the same bits and records inline and with workers; what is the same by the papers is so here."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foedus.domain.round import RoundRecord
from foedus.domain.run import parse_spec
from foedus.domain.tree import Tensors
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare_spec
from foedus.engine.simulate import Result, simulate
from tests.plans import BATCHNORM, DIGITS, DROPOUT, SERVERS, prepared

MANY = {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.5, "clients": 25}}
TIME = {
    "speed": {"name": "lognormal", "median": 50, "sigma": 1.0},
    "network": {"down": 1e5, "up": {"name": "uniform", "low": 1e4, "high": 1e5}, "latency": 0.05},
    "availability": 0.9,
    "dropout": 0.05,
    "failure": 0.02,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "over-selection": {"cohort": {"size": 12, "over_selection": 1.5}},
    "deadline": {"schedule": {"deadline": 2.0}},
    "buffered": {"schedule": {"name": "buffered", "buffer": 5}},
    "round robin": {"schedule": {"name": "buffered", "buffer": 5, "selector": "round_robin"}},
    "timed": {"schedule": {"name": "timed", "every": 1.5}},
    "cyclic": {"schedule": {"name": "cyclic"}},
}
EAGER = Engine("eager", "inline")


def _run(folder: Path, engine: Engine = EAGER, plan: str = DIGITS, **changes: Any) -> Result:
    return simulate(prepared(folder, plan, **{"data": MANY, "cohort": {"size": 12}, "rounds": 4, **changes}), engine)


def _timeless(record: RoundRecord) -> RoundRecord:
    phases = tuple(
        replace(phase, receipts=tuple(replace(receipt, seconds=0.0) for receipt in phase.receipts))
        for phase in record.phases
    )
    return replace(record, seconds=0.0, phases=phases)


@pytest.mark.parametrize("changes", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_every_schedule_gives_the_same_bits_and_records_inline_with_workers_and_again(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    first = _run(tmp_path, time=TIME, **changes)
    for engine in (EAGER, Engine("eager", "workers", 1), Engine("eager", "workers", 2)):
        other = _run(tmp_path, engine, time=TIME, **changes)
        assert other.model_digest == first.model_digest
        assert [*map(_timeless, other.rounds)] == [*map(_timeless, first.rounds)]
    assert first.rounds[-1].virtual_time > 0


@pytest.mark.parametrize("plan", [DIGITS, BATCHNORM, DROPOUT], ids=["digits", "batchnorm", "dropout"])
@pytest.mark.parametrize("server", [SERVERS["sgd"], SERVERS["adam"]], ids=["sgd", "adam"])
def test_a_buffer_as_large_as_the_cohort_with_equal_times_is_synchronous_fedavg_bit_for_bit(
    plan: str, server: dict[str, Any], tmp_path: Path
) -> None:
    def rounds(name: str, engine: Engine, **changes: Any) -> tuple[RoundRecord, ...]:
        strategy = {"name": name, "local": {"lr": 0.1}, "server": server}
        even = {"name": "digits", "partition": {"name": "iid", "clients": 25}}  # nobody has a last batch of one
        return _run(tmp_path, engine, plan, strategy=strategy, data=even, **changes).rounds

    for engine in (EAGER, Engine("eager", "workers", 1)):  # one worker folds whole blocks itself
        synchronous = rounds("fedavg", engine)
        buffered = rounds("fedbuff", engine, schedule={"name": "buffered", "buffer": 12})
        assert [*map(_timeless, buffered)] == [*map(_timeless, synchronous)]


def test_a_timed_phase_as_long_as_an_ask_is_synchronous_fedavg_bit_for_bit(tmp_path: Path) -> None:
    timed = _run(tmp_path, schedule={"name": "timed", "every": 1.0})
    assert [*map(_timeless, timed.rounds)] == [*map(_timeless, _run(tmp_path).rounds)]


def _distance(first: Tensors, second: Tensors) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_a_buffer_of_one_is_fedasync_in_the_form_of_differences_bit_for_bit(tmp_path: Path) -> None:
    one: dict[str, Any] = {"schedule": {"name": "buffered", "buffer": 1}, "time": TIME, "rounds": 12}
    fedbuff = _run(tmp_path, strategy={"name": "fedbuff", "local": {"lr": 0.1}, "server": {"lr": 0.6}}, **one)
    fedasync = _run(tmp_path, strategy={"name": "fedasync", "local": {"lr": 0.1}, "form": "difference"}, **one)
    assert max(receipt.staleness for record in fedbuff.rounds for receipt in record.phases[0].receipts) > 3
    assert fedasync.model_digest == fedbuff.model_digest


def test_where_nothing_is_stale_mixing_and_differences_are_the_same_and_else_they_are_not(tmp_path: Path) -> None:
    def distance(concurrency: int) -> float:
        one: dict[str, Any] = {"schedule": {"name": "buffered", "buffer": 1}, "cohort": {"size": concurrency}}
        mixing, difference = (
            _run(tmp_path, strategy={"name": "fedasync", "local": {"lr": 0.1}, "form": form}, rounds=12, **one).model
            for form in ("mixing", "difference")
        )
        return _distance(mixing, difference)

    assert distance(1) < 1e-6
    assert distance(6) > 1e-3


def test_mixing_is_the_papers_equation_with_its_staleness(tmp_path: Path) -> None:
    """Of two that began together the second is one version stale, so alpha is 0.6 · 2^-½ for it."""
    one: dict[str, Any] = {"schedule": {"name": "buffered", "buffer": 1}, "cohort": {"size": 2}, "rounds": 2}
    alone = {"strategy": {"name": "fedavg", "local": {"lr": 0.1}}, "schedule": {"name": "buffered", "buffer": 1}}
    start = prepared(tmp_path, data=MANY).model
    mixed = _run(tmp_path, strategy={"name": "fedasync", "local": {"lr": 0.1}}, **one)
    first, second = (record.phases[0].receipts[0].client for record in mixed.rounds)
    assert [record.phases[0].receipts[0].staleness for record in mixed.rounds] == [0, 1]
    firsts = _run(tmp_path, **{**alone, "cohort": {"size": 2}, "rounds": 1}).model
    model = {name: start[name] * 0.4 + firsts[name] * 0.6 for name in start}
    weight = 0.6 * 2**-0.5
    constant = {**alone, "schedule": {"name": "buffered", "buffer": 1, "staleness": {"name": "constant"}}}
    both = _run(tmp_path, **{**constant, "cohort": {"size": 2}, "rounds": 2}).model
    seconds = {name: start[name] + (both[name] - firsts[name]) for name in start}
    model = {name: model[name] * (1 - weight) + seconds[name] * weight for name in start}
    assert first != second
    assert _distance(model, dict(mixed.model)) < 1e-5


def test_uniform_weighting_is_the_plain_mean_of_the_buffer(tmp_path: Path) -> None:
    def model(weighting: str, clients: int) -> Tensors:
        strategy = {"name": "fedbuff", "local": {"lr": 0.1}, "weighting": weighting}
        buffer = {"name": "buffered", "buffer": clients, "selector": "round_robin"}
        run = {"strategy": strategy, "schedule": buffer, "cohort": {"size": clients}, "rounds": 1}
        return _run(tmp_path, **run).model

    start = prepared(tmp_path, data=MANY).model
    assert _distance(model("uniform", 1), model("examples", 1)) < 1e-6
    assert _distance(model("uniform", 3), model("examples", 3)) > 1e-4
    assert all(model("uniform", 3)[name].shape == tensor.shape for name, tensor in start.items())


def test_the_fedbuff_example_gives_the_same_digest_twice(tmp_path: Path) -> None:
    def told(number: int, executor: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "foedus", "simulate", "examples/fedbuff/run.toml", "--kernel", "eager"]
        command += ["--executor", executor, "--json", "--out", str(tmp_path / str(number))]
        data: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["data"]
        return data

    first, second, third = told(1, "auto"), told(2, "auto"), told(3, "workers")
    assert first["model_digest"] == second["model_digest"] == third["model_digest"]
    assert first["metrics"]["held_out/accuracy"] > 0.8
    rows = [json.loads(line) for line in (tmp_path / "1" / "rounds.jsonl").read_text().splitlines()]
    receipts = [receipt for row in rows for phase in row["phases"] for receipt in phase["receipts"]]
    assert max(receipt["staleness"] for receipt in receipts) > 3
    assert any(receipt["failure"].startswith("dropped_out") for receipt in receipts)
    assert rows[-1]["virtual_time"] > 10


def test_waiting_for_slow_clients_costs_the_time_that_the_guide_says() -> None:
    table = tomllib.loads(Path("examples/fedbuff/run.toml").read_text()) | {"test": {"every": 1}, "rounds": 40}
    at_once = {"schedule": {"deadline": 1e5}, "strategy": {"name": "fedavg", "local": table["strategy"]["local"]}}

    def seconds(**changes: Any) -> float:
        ready = prepare_spec(parse_spec({**table, **changes}), Path("examples/fedbuff"))
        rounds = simulate(ready, EAGER).rounds
        return next(record.virtual_time for record in rounds if record.metrics["test/accuracy"] >= 0.8)

    everybody = seconds(**at_once)
    fastest = seconds(**at_once, cohort={"size": 20, "over_selection": 1.5})
    nobody = seconds()
    assert everybody > 5 * fastest > 10 * nobody


def test_kernel_graph_agrees_within_its_tolerance_under_every_schedule(tmp_path: Path) -> None:
    start = prepared(tmp_path, data=MANY).model
    for name in ("over-selection", "buffered"):
        eager = _run(tmp_path, time=TIME, **SCHEDULES[name])
        graph = _run(tmp_path, Engine("graph", "inline"), time=TIME, **SCHEDULES[name])
        assert graph.choice.kernel == "graph"
        assert _distance(graph.model, eager.model) <= 1e-4 * _distance(start, eager.model)
