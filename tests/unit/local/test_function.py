"""Function plans: what their functions are given, what may come back, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foedus.domain.errors import ClientWorkError, ConfigError, PlanError
from foedus.domain.plan import PlanBundle
from foedus.domain.rng import Randomness
from foedus.domain.tree import State, model_digest
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare
from foedus.engine.simulate import client_data, simulate
from foedus.local.kinds import Plan, begin, check_depth, load_plan
from foedus.local.own import OWN, OwnObjective, OwnPlan
from foedus.local.work import Batch
from tests.plans import prepared

EAGER = Engine("eager", "inline")

CENTROIDS = """
import random
import numpy as np

metrics = {"accuracy": "max"}

def initial(seed, options):
    return {"sums": np.random.default_rng(seed).normal(size=(10, 64)), "counts": np.ones(10), "seen": np.zeros(1, int)}

def fit(model, columns, call):
    columns["image"] /= 16
    for image, label in zip(columns["image"], columns["label"]):
        model["sums"][label] += image
        model["counts"][label] += 1
    model["seen"] += 1
    model["sums"] += random.random() * 1e-6 + np.random.rand() * 1e-6
    state = {"rounds": call.state.get("rounds", np.zeros(1)) + 1, "seed": np.array([call.seed])}
    assert state["rounds"][0] == call.round
    return {"model": model, "loss": np.float32(0.5), "weight": len(columns["label"]) * 2, "state": state}

def evaluate(model, columns, options):
    centers = model["sums"] / model["counts"][:, None]
    distances = ((columns["image"][:, None] / 16 - centers) ** 2).sum(axis=2)
    return {"loss": distances.min(axis=1).mean(), "accuracy": (distances.argmin(axis=1) == columns["label"]).mean()}
"""

MEAN = """
import numpy as np
def initial(seed, options): return {"mean": np.zeros(64)}
def fit(model, columns, call):
    images = columns["image"].astype(float)
    return {"model": {"mean": images.mean(axis=0)}, "loss": images.var(), "weight": len(images) + 1}
def evaluate(model, columns, options): return {"loss": np.abs(columns["image"] - model["mean"]).mean()}
"""

LINE = """
import numpy as np
def initial(seed, options): return {"w": np.zeros(2, np.float32)}
def fit(model, columns, call): return GIVEN
def evaluate(model, columns, options): return MEASURED
"""

OWN_TRAINING: dict[str, Any] = {"strategy": {"name": "fedavg"}}


def plan_of(text: str, **files: str) -> OwnPlan:
    plan: Plan = load_plan(
        PlanBundle({"plan.py": text.encode(), **{n: t.encode() for n, t in files.items()}}, "plan.py")
    )
    assert isinstance(plan, OwnPlan)
    return plan


def line(given: str = '{"model": model, "loss": 1}', measured: str = '{"loss": 1}') -> OwnObjective:
    return OwnObjective(plan_of(LINE.replace("GIVEN", given).replace("MEASURED", measured)))


MODEL = {"w": torch.zeros(2)}
BATCH = Batch({"x": torch.ones(3)}, {})
RNG = Randomness(1, 1, "a")


def test_a_function_plan_trains_and_is_measured_with_state_weight_and_seeds(tmp_path: Path) -> None:
    ready = prepared(tmp_path, CENTROIDS, **OWN_TRAINING, rounds=3)
    assert {tensor.name: tensor.kind for tensor in ready.manifest.tensors} == {
        "sums": "parameter",
        "counts": "parameter",
        "seen": "buffer",
    }
    assert ready.manifest.metrics == {"loss": "min", "accuracy": "max"}
    done = simulate(ready, EAGER)
    last = done.rounds[-1]
    assert last.metrics["test/accuracy"] > 0.8 and done.held_out["accuracy"] > 0.8
    assert last.phases[0].metrics == {"loss": 0.5}
    assert [receipt.failure for record in done.rounds for phase in record.phases for receipt in phase.receipts] == [
        ""
    ] * 24
    weights = {receipt.client: receipt.weights["examples"] for receipt in last.phases[0].receipts}
    seen = {receipt.client: receipt.weights["examples"] for receipt in done.rounds[0].phases[0].receipts}
    assert weights == seen and all(weight % 2 == 0 for weight in weights.values())
    assert float(done.model["seen"]) == 3
    assert simulate(ready, EAGER).model_digest == done.model_digest
    assert simulate(ready, Engine("auto", "workers", 2)).model_digest == done.model_digest
    other = prepared(tmp_path, CENTROIDS, **OWN_TRAINING, rounds=3, seed=2)
    assert not torch.equal(other.model["sums"], ready.model["sums"])


@pytest.mark.parametrize("server", [{"optimizer": "adam", "lr": 0.1}, {"optimizer": "sgd", "momentum": 0.9}])
@pytest.mark.parametrize("aggregator", ["mean", "median"])
def test_aggregators_and_server_optimizers_apply_as_to_any_update(
    tmp_path: Path, server: dict[str, Any], aggregator: str
) -> None:
    strategy = {"name": "fedavg", "server": server, "aggregator": {"name": aggregator}}
    ready = prepared(tmp_path, CENTROIDS, strategy=strategy)
    done, plain = simulate(ready, EAGER), simulate(prepared(tmp_path, CENTROIDS, **OWN_TRAINING), EAGER)
    assert [phase.outcome for record in done.rounds for phase in record.phases] == ["closed"] * 4
    assert len({model_digest(ready.model), done.model_digest, plain.model_digest}) == 3
    assert float(done.model["seen"]) == 2


def test_fedavg_is_the_mean_of_what_fit_gives_by_the_weights_that_it_says(tmp_path: Path) -> None:
    ready = prepared(tmp_path, MEAN, **OWN_TRAINING, rounds=1)
    parts = client_data(ready).values()
    weights = [len(data.train) + 1 for data in parts]
    ends = [data.train.tensors["inputs.image"].double().mean(0) for data in parts]
    expected = sum(weight * end for weight, end in zip(weights, ends, strict=True)) / sum(weights)
    assert torch.allclose(simulate(ready, EAGER).model["mean"], expected, atol=1e-12)


def test_fedasync_and_fedbuff_take_such_plans_too(tmp_path: Path) -> None:
    schedule = {"name": "buffered", "buffer": 2}
    for name in ("fedasync", "fedbuff"):
        buffer = {"schedule": {**schedule, "buffer": 1 if name == "fedasync" else 2}, "cohort": {"size": 2}}
        done = simulate(prepared(tmp_path, MEAN, strategy={"name": name}, **buffer, rounds=4), EAGER)
        assert done.rounds[-1].metrics["test/loss"] < 20 and float(done.model["mean"].sum()) > 0


def test_a_strategy_of_gradients_says_that_the_plan_has_none(tmp_path: Path) -> None:
    ready = prepared(tmp_path, MEAN, **OWN_TRAINING)
    assert not ready.strategy.gradients
    with pytest.raises(ConfigError, match=r"scaffold.*does not go with a function plan"):
        check_depth(ready.plan, "scaffold", gradients=True)


def test_the_plan_cannot_write_to_what_the_platform_holds() -> None:
    objective = line('{"model": {"w": model["w"] + len(columns.pop("x"))}, "loss": 0}')
    model, batch = {"w": torch.zeros(2)}, Batch({"x": torch.ones(3)}, {})
    assert objective.fit(model, batch, State(), RNG).model["w"].tolist() == [3, 3]
    assert (model["w"].tolist(), len(batch.inputs)) == ([0, 0], 1)


def test_the_state_of_a_client_is_its_own_and_has_a_part_of_its_own() -> None:
    objective = line('{"model": model, "loss": 0, "state": {"n": call.state.get("n", np.zeros(1)) + call.round}}')
    first = objective.fit(MODEL, BATCH, State(), RNG)
    second = objective.fit(MODEL, BATCH, State({OWN: first.state}), Randomness(1, 2, "a"))
    assert second.state["n"].tolist() == [3]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("model", "a dict of `model` and `loss`"),
        ('{"model": model}', "a dict of `model` and `loss`"),
        ('{"model": model, "loss": 1, "lost": 2}', "a dict of `model` and `loss`"),
        ('{"model": model, "loss": "much"}', "the loss is a str"),
        ('{"model": {"w": model["w"].astype(float)}, "loss": 1}', "names, shapes or dtypes"),
        ('{"model": {"w": model["w"][:1]}, "loss": 1}', "names, shapes or dtypes"),
        ('{"model": {"v": model["w"]}, "loss": 1}', "names, shapes or dtypes"),
        ('{"model": {"w": np.array(["a", "b"])}, "loss": 1}', "does not hold plain numbers"),
        ('{"model": model, "loss": 1, "weight": 0.5}', "not between 1 and 1e+09"),
        ('{"model": model, "loss": 1, "weight": float("nan")}', "not between 1 and 1e+09"),
        ('{"model": model, "loss": float("nan")}', "its loss is nan"),
    ],
)
def test_what_fit_may_not_give_is_refused_with_what_it_may(given: str, words: str) -> None:
    with pytest.raises(ClientWorkError) as refused:
        line(given).fit(MODEL, BATCH, State(), RNG)
    assert refused.value.code == "plan_result_refused"
    assert words in refused.value.why


@pytest.mark.parametrize("measured", ["1", "{}", '{"loss": 1, "accuracy": 2}', '{"loss": [1, 2]}'])
def test_evaluate_gives_the_metrics_that_are_declared_and_no_others(measured: str) -> None:
    with pytest.raises(ClientWorkError) as refused:
        line(measured=measured).measure(MODEL, BATCH)
    assert refused.value.code == "plan_result_refused"


def test_one_client_that_fails_does_not_lose_the_round(tmp_path: Path) -> None:
    text = CENTROIDS.replace("    columns[", "    assert len(columns['label']) != COUNT\n    columns[", 1)
    ready = prepared(tmp_path, CENTROIDS, **OWN_TRAINING, rounds=1)
    sizes = [int(receipt.weights["examples"] / 2) for receipt in simulate(ready, EAGER).rounds[0].phases[0].receipts]
    assert len(set(sizes)) == 4
    done = simulate(prepared(tmp_path, text.replace("COUNT", str(sizes[1])), **OWN_TRAINING, rounds=1), EAGER)
    failures = [receipt.failure for receipt in done.rounds[0].phases[0].receipts]
    assert [bool(failure) for failure in failures] == [False, True, False, False]
    assert failures[1].startswith("plan_failed") and "AssertionError" in failures[1]


def test_an_update_that_is_not_finite_is_a_failed_contribution(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="update_not_finite"):
        text = CENTROIDS.replace('"loss": np.float32(0.5)', '"loss": 1').replace(
            'model["seen"] += 1', 'model["counts"] /= 0'
        )
        simulate(prepared(tmp_path, "import warnings; warnings.simplefilter('ignore')\n" + text, **OWN_TRAINING), EAGER)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("def fit(m, c, call): pass", "plan_incomplete", "no function initial and no function evaluate"),
        (LINE + "metrics = {'loss': 'min'}", "plan_incomplete", "`metrics`"),
        (LINE + "metrics = {'accuracy': 'up'}", "plan_incomplete", "`metrics`"),
    ],
)
def test_an_incomplete_function_plan_is_refused(text: str, code: str, words: str) -> None:
    with pytest.raises(PlanError) as refused:
        plan_of(text)
    assert (refused.value.code, words in str(refused.value)) == (code, True)


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ("1 / 0", "plan_model_failed"),
        ('{"a/b": np.zeros(1)}', "plan_model_refused"),
        ('{"w": np.zeros(1, np.uint16)}', "plan_model_refused"),
        ('{"w": np.zeros(1, int)}', "plan_model_refused"),
        ("[np.zeros(1)]", "plan_model_failed"),
    ],
)
def test_an_initial_model_that_cannot_be_used_is_refused(arrays: str, code: str) -> None:
    with pytest.raises(PlanError) as refused:
        begin(plan_of(LINE.replace('{"w": np.zeros(2, np.float32)}', arrays)), 1, {})
    assert refused.value.code == code


def test_steps_of_the_platform_and_training_of_the_plan_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        prepared(tmp_path, CENTROIDS)
    assert (refused.value.code, "gradients" in refused.value.why) == ("plan_depth_refused", True)
    with pytest.raises(ConfigError) as refused:
        prepared(tmp_path, **OWN_TRAINING)
    assert (refused.value.code, "local.lr" in refused.value.what) == ("config_refused", True)


def test_the_example_runs_and_its_options_are_checked_by_its_schema() -> None:
    path, options = Path("examples/function/run.toml"), "strategy.local.options"
    done = simulate(prepare(path, {"rounds": "2"}), EAGER)
    assert done.rounds[-1].metrics["test/accuracy"] > 0.85
    assert prepare(path).plan.options == {"passes": 2, "lr": 0.05}  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"passes.*greater than or equal to 1"):
        prepare(path, {f"{options}.passes": "0"})
    with pytest.raises(ConfigError, match="Did you mean `passes`"):
        prepare(path, {f"{options}.pases": "1"})
    assert np.isfinite(done.rounds[-1].metrics["train/loss"])


def test_models_are_measured_before_and_after_the_plan_s_own_training(tmp_path: Path) -> None:
    tests = {"ratio": 0.3, "on_global_updates": True, "on_local_updates": True, "shuffle": True}
    done = simulate(prepared(tmp_path, MEAN, **OWN_TRAINING, test=tests, rounds=1), EAGER)
    train = done.rounds[0].phases[0].metrics
    assert train.keys() == {"loss", "global.loss", "local.loss"}
    assert train["local.loss"] < train["global.loss"] / 1.5  # the mean of the client is nearer to its tests than zero


def test_a_run_may_only_evaluate_such_a_plan(tmp_path: Path) -> None:
    ready = prepared(tmp_path, MEAN, **OWN_TRAINING, training=False, rounds=1)
    done = simulate(ready, EAGER)
    assert [phase.phase for phase in done.rounds[0].phases] == ["test"]
    assert (done.rounds[0].metrics["test/loss"] > 0, done.model_digest) == (True, model_digest(ready.model))


def test_no_graph_and_no_device_are_made_of_work_that_is_the_plan_s(tmp_path: Path) -> None:
    ready = prepared(tmp_path, MEAN, **OWN_TRAINING, rounds=1)
    choice = simulate(ready, Engine("graph", "inline")).choice
    assert (choice.kernel, "a function plan does its own work" in choice.reason) == ("eager", True)
    with pytest.raises(ConfigError) as refused:
        simulate(ready, Engine("auto", "auto", device="cuda"))
    assert refused.value.code == "device_unavailable"
