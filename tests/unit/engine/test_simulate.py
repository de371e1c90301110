"""A simulation, whole: rounds, records, buffers, frozen parameters, empty and failing clients, and bad plans."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from foedus.domain.errors import FoedusError, PlanError, QuorumError
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare, read_spec
from foedus.engine.simulate import Result, simulate
from tests.plans import BATCHNORM, DIGITS, DRAWING, DROPOUT, FROZEN, prepared

EAGER = Engine("eager", "inline")


def _run(folder: Path, plan: str = DIGITS, **changes: object) -> Result:
    return simulate(prepared(folder, plan, **changes), EAGER)


def test_the_digits_example_learns() -> None:
    result = simulate(prepare(Path("examples/digits/run.toml")), EAGER)
    assert len(result.rounds) == 20
    assert result.held_out["accuracy"] > 0.9
    assert result.rounds[-1].metrics["train/loss"] < result.rounds[0].metrics["train/loss"] / 2
    assert result.rounds[-1].model == result.model_digest


def test_a_record_says_who_sent_what(tmp_path: Path) -> None:
    record = _run(tmp_path).rounds[0]
    train, test = record.phases
    assert [receipt.client for receipt in train.receipts] == ["c0000", "c0001", "c0002", "c0003"]
    examples = [receipt.weights["examples"] for receipt in train.receipts]
    tested = [receipt.weights["examples"] for receipt in test.receipts]
    assert sum(examples) + sum(tested) == 1438
    mean = sum(r.metrics["accuracy"] * r.weights["examples"] for r in test.receipts) / sum(tested)
    assert record.metrics["test/accuracy"] == pytest.approx(mean)
    model_bytes = 4 * (64 * 32 + 32 + 32 * 10 + 10)
    assert train.bytes_down == train.bytes_up == 4 * model_bytes
    assert (test.bytes_down, test.bytes_up) == (4 * model_bytes, 0)


@pytest.mark.parametrize("plan", [DIGITS, BATCHNORM, DROPOUT, DRAWING], ids=["mlp", "batchnorm", "dropout", "drawing"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(plan: str, tmp_path: Path) -> None:
    first = _run(tmp_path, plan)
    torch.rand(17), np.random.rand(17), random.random()
    assert _run(tmp_path, plan).model_digest == first.model_digest
    assert _run(tmp_path, plan, seed=2).model_digest != first.model_digest


def test_buffers_are_averaged_and_keep_their_dtype(tmp_path: Path) -> None:
    result = _run(tmp_path, BATCHNORM, rounds=1)
    receipts = result.rounds[0].phases[0].receipts
    steps = {r.client: -(-r.weights["examples"] // 10) for r in receipts}
    total = sum(r.weights["examples"] for r in receipts)
    mean = sum(steps[r.client] * r.weights["examples"] for r in receipts) / total
    tracked = result.model["1.num_batches_tracked"]
    assert tracked.dtype == torch.int64
    assert tracked.item() == round(mean)
    assert not torch.equal(result.model["1.running_mean"], torch.zeros(32))


def test_a_frozen_parameter_stays_and_is_not_sent(tmp_path: Path) -> None:
    ready = prepared(tmp_path, FROZEN)
    result = simulate(ready, EAGER)
    assert torch.equal(result.model["0.weight"], ready.model["0.weight"])
    assert not torch.equal(result.model["2.weight"], ready.model["2.weight"])
    assert result.rounds[0].phases[0].bytes_up == 4 * 4 * (32 + 320 + 10)


def test_a_cohort_is_part_of_the_population_and_changes(tmp_path: Path) -> None:
    partition = {"name": "iid", "clients": 20}
    result = _run(tmp_path, cohort={"fraction": 0.2}, rounds=5, data={"name": "digits", "partition": partition})
    cohorts = [record.phases[0].asked for record in result.rounds]
    assert all(len(cohort) == 4 for cohort in cohorts)
    assert len(set(cohorts)) > 1
    assert result.held_out == {}


def test_tests_can_be_rare_or_left_out(tmp_path: Path) -> None:
    rare = _run(tmp_path, rounds=5, test={"every": 2}).rounds
    assert [record.round for record in rare if len(record.phases) == 2] == [2, 4, 5]
    never = _run(tmp_path, test={"ratio": 0.0}).rounds
    assert all(len(record.phases) == 1 for record in never)


def test_local_epochs_go_on_where_they_stopped(tmp_path: Path) -> None:
    local = {"lr": 0.1, "epochs": 2, "batch_size": 10}
    once = _run(tmp_path, rounds=1, strategy={"name": "fedavg", "local": local})
    assert once.model_digest != _run(tmp_path, rounds=1).model_digest


@pytest.mark.parametrize("server", ["sgd", "adagrad", "adam", "yogi"])
def test_every_server_optimizer_learns(server: str, tmp_path: Path) -> None:
    options = {"optimizer": server, "lr": 1.0 if server == "sgd" else 0.05}
    strategy = {"name": "fedavg", "local": {"lr": 0.1}, "server": options}
    result = _run(tmp_path, rounds=12, strategy=strategy)
    assert result.rounds[-1].metrics["train/loss"] < 0.7 * result.rounds[0].metrics["train/loss"]


ZEROS = DIGITS.replace(
    "    return nn.functional.cross_entropy(output, target)",
    "    if (target == 0).float().mean() > 0.7: raise RuntimeError('too many zeros')\n"
    "    return nn.functional.cross_entropy(output, target)",
)
"""It fails for the client c0002 alone."""


def test_h10_where_everybody_has_to_contribute_one_who_fails_ends_the_run_and_is_named(tmp_path: Path) -> None:
    """Where not, the round goes on without it: the next test. Where nobody does, nothing changes: see the driver's."""
    with pytest.raises(QuorumError) as refusal:
        _run(tmp_path, ZEROS, test={"ratio": 0.0}, cohort={"size": 4, "minimum": 4})
    assert refusal.value.code == "too_few_contributions"
    assert "3 of 4 contributed" in str(refusal.value)
    assert "c0002" in str(refusal.value) and "too many zeros" in str(refusal.value)


def test_h10_a_client_whose_code_fails_is_named_and_the_round_goes_on(tmp_path: Path) -> None:
    record = _run(tmp_path, ZEROS, test={"ratio": 0.0}).rounds[0].phases[0]
    assert [receipt.client for receipt in record.receipts if receipt.failure] == ["c0002"]
    failure = record.receipts[2].failure
    assert "plan_failed" in failure
    assert "too many zeros" in failure
    assert record.metrics["loss"] > 0


def test_a_client_that_diverges_is_named_and_does_not_spoil_the_model(tmp_path: Path) -> None:
    strategy = {"name": "fedavg", "local": {"lr": 1e38}}
    with pytest.raises(QuorumError) as refusal:
        _run(tmp_path, strategy=strategy)
    assert refusal.value.code == "too_few_contributions"


def test_a_model_that_does_not_fit_the_data_is_told_with_what_torch_says(tmp_path: Path) -> None:
    with pytest.raises(QuorumError) as refusal:
        _run(tmp_path, DIGITS.replace("nn.Linear(64, 32)", "nn.Linear(28, 32)"))
    assert "c0000 and 3 more: plan_failed" in str(refusal.value)
    assert "mat1 and mat2 shapes cannot be multiplied" in str(refusal.value)
    assert "run show" not in str(refusal.value)


BAD_PLANS = {
    "a loss per row": (
        "cross_entropy(output, target)",
        "cross_entropy(output, target, reduction='none')",
        "plan_loss_shape",
    ),
    "an integer loss": ("nn.functional.cross_entropy(output, target)", "target.sum()", "plan_loss_shape"),
    "a loss that is a list": ("nn.functional.cross_entropy(output, target)", "[1.0]", "plan_loss_shape"),
    "a constant loss": ("nn.functional.cross_entropy(output, target)", "torch.tensor(1.0)", "plan_loss_constant"),
    "a metric per row": (".float().mean()", ".float()", "plan_loss_shape"),
    "a missing column": ('columns["image"]', 'columns["pixels"]', "column_missing"),
}


@pytest.mark.parametrize(("old", "new", "code"), BAD_PLANS.values(), ids=BAD_PLANS.keys())
def test_a_plan_that_cannot_be_trained_is_refused_with_its_code(old: str, new: str, code: str, tmp_path: Path) -> None:
    assert old in DIGITS
    with pytest.raises(FoedusError) as refusal:
        _run(tmp_path, DIGITS.replace(old, new))
    assert refusal.value.code == code


def test_a_cohort_larger_than_the_population_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuorumError) as refusal:
        _run(tmp_path, cohort={"size": 5})
    assert refusal.value.code == "population_too_small"


def test_overrides_reach_any_key_and_are_validated(tmp_path: Path) -> None:
    path = Path("examples/digits/run.toml")
    spec = read_spec(path, {"strategy.local.lr": "0.05", "rounds": "3", "name": "trial", "data.folder": "a/b"})
    assert spec.strategy.options["local"]["lr"] == 0.05
    assert (spec.rounds, spec.name, spec.data.folder) == (3, "trial", "a/b")
    for key, value, code in [
        ("strategy.local.lrr", "1", "config_refused"),
        ("strategy.name", "fedavgg", "strategy_unknown"),
        ("rounds.x", "1", "override_refused"),
        ("rounds", "many", "config_refused"),
    ]:
        with pytest.raises(FoedusError) as refusal:
            read_spec(path, {key: value})
        assert refusal.value.code == code


def test_a_missing_plan_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(Path("examples/digits/run.toml").read_text())
    with pytest.raises(PlanError) as refusal:
        prepare(tmp_path / "run.toml")
    assert refusal.value.code == "plan_missing"
