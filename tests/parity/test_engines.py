"""Every strategy under every kernel and executor: ``eager`` bit for bit, ``graph`` within its stated tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foedus.domain.tree import Tensors
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare
from foedus.engine.simulate import Result, simulate
from foedus.strategies.catalogue import CATALOGUE
from tests.plans import BATCHNORM, DIGITS, DRAWING, DROPOUT, SERVERS, prepared

TOLERANCE = 1e-4
"""Distance of ``graph`` from ``eager``, relative to the distance trained (L2), as the guide states it."""

STRATEGIES: dict[str, dict[str, Any]] = {
    **{f"fedavg-{n}": {"name": "fedavg", "local": {"lr": 0.1}, "server": server} for n, server in SERVERS.items()},
    "median": {"name": "fedavg", "local": {"lr": 0.1}, "aggregator": {"name": "median"}},
    "trimmed mean": {"name": "fedavg", "local": {"lr": 0.1}, "aggregator": {"name": "trimmed_mean", "trim": 0.2}},
    "momentum kept, cosine over steps": {
        "name": "fedavg",
        "local": {
            "lr": 0.1,
            "momentum": 0.5,
            "keep_optimizer": True,
            "lr_schedule": {"name": "cosine", "t_max": 8, "over": "steps"},
        },
    },
    "adam kept, steps over rounds": {
        "name": "fedavg",
        "local": {
            "lr": 0.01,
            "optimizer": "adam",
            "weight_decay": 0.01,
            "keep_optimizer": True,
            "lr_schedule": {"name": "step", "step_size": 1, "gamma": 0.5},
        },
    },
    "fedbuff": {"name": "fedbuff", "local": {"lr": 0.1}, "weighting": "uniform"},
    "fedasync": {"name": "fedasync", "local": {"lr": 0.1}},
}
BUFFERS = {"fedbuff": 12, "fedasync": 1}
TIME = {"speed": {"name": "lognormal", "median": 50, "sigma": 1.0}}
MANY = {"name": "digits", "held_out": 0.2, "partition": {"name": "dirichlet", "alpha": 0.5, "clients": 25}}


def _run(folder: Path, engine: Engine, strategy: dict[str, Any], plan: str = DIGITS) -> Result:
    asynchronous: dict[str, Any] = {}
    if buffer := BUFFERS.get(strategy["name"]):
        asynchronous = {"schedule": {"name": "buffered", "buffer": buffer}, "time": TIME, "rounds": 4}
    return simulate(prepared(folder, plan, strategy=strategy, data=MANY, cohort={"size": 23}, **asynchronous), engine)


def _distance(first: Tensors, second: Tensors) -> float:
    return float(sum(((first[name] - second[name]) ** 2).sum() for name in first) ** 0.5)


def test_every_strategy_of_the_catalogue_is_here() -> None:
    assert {strategy["name"] for strategy in STRATEGIES.values()} == set(CATALOGUE)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_eager_gives_the_same_bits_inline_and_with_any_number_of_workers(
    strategy: dict[str, Any], tmp_path: Path
) -> None:
    inline = _run(tmp_path, Engine("eager", "inline"), strategy)
    for workers in (1, 2, 3):
        spread = _run(tmp_path, Engine("eager", "workers", workers), strategy)
        assert (spread.choice.executor, spread.choice.workers) == ("workers", workers)
        assert spread.model_digest == inline.model_digest
        assert [record.model for record in spread.rounds] == [record.model for record in inline.rounds]
        assert [record.metrics for record in spread.rounds] == [record.metrics for record in inline.rounds]


@pytest.mark.parametrize("plan", [BATCHNORM, DROPOUT, DRAWING], ids=["batchnorm", "dropout", "drawing"])
def test_eager_with_buffers_and_random_numbers_gives_the_same_bits_with_workers(plan: str, tmp_path: Path) -> None:
    strategy = STRATEGIES["fedavg-sgd"]
    inline = _run(tmp_path, Engine("eager", "inline"), strategy, plan)
    assert _run(tmp_path, Engine("eager", "workers", 2), strategy, plan).model_digest == inline.model_digest


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_graph_agrees_within_its_tolerance_and_is_reproducible(strategy: dict[str, Any], tmp_path: Path) -> None:
    start = prepared(tmp_path, DIGITS).model
    eager = _run(tmp_path, Engine("eager", "inline"), strategy)
    graph = _run(tmp_path, Engine("graph", "inline"), strategy)
    assert graph.choice.kernel == "graph"
    assert _distance(graph.model, eager.model) <= TOLERANCE * _distance(start, eager.model)
    recipe = graph.choice.recipe
    for engine in (Engine("graph", "inline", recipe=recipe), Engine("graph", "workers", 2, recipe=recipe)):
        assert _run(tmp_path, engine, strategy).model_digest == graph.model_digest


def test_a_small_cohort_uses_every_worker_and_gives_the_same_bits() -> None:
    ready = prepare(Path("examples/digits/run.toml"))
    inline = simulate(ready, Engine("eager", "inline"))
    assert simulate(ready, Engine("eager", "workers", 2)).model_digest == inline.model_digest
