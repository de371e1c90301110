"""The round of one client: what is measured before and after training, on which examples, and what stays with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.data.dataset import ClientData, Examples, split
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import ConfigError
from foedus.domain.rng import Randomness
from foedus.domain.round import Ask, Broadcast, RoundRecord
from foedus.domain.tree import State, model_digest
from foedus.engine.choice import Engine
from foedus.engine.client import ClientTask, run_client
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import client_data, simulate
from foedus.local.checks import Logged
from foedus.local.evaluate import measure
from foedus.local.objective import EagerObjective
from foedus.local.plan import TrainingPlan
from foedus.strategies.strategy import Phase
from tests.plans import DIGITS, MARKED, prepared

EAGER = Engine("eager", "inline")
BOTH = {"ratio": 0.25, "on_global_updates": True, "on_local_updates": True}
TAGGED = ("global.accuracy", "global.loss", "global.mark", "local.accuracy", "local.loss", "local.mark")


def marks(rounds: Sequence[RoundRecord], metric: str) -> list[dict[str, float]]:
    """A metric of the training phase by client, round by round."""
    return [{r.client: r.metrics[metric] for r in record.phases[0].receipts} for record in rounds]


def trained(ready: Prepared) -> TrainingPlan:
    assert isinstance(ready.plan, TrainingPlan)
    return ready.plan


def test_f4_each_round_is_measured_before_and_after_and_the_last_model_once_more(tmp_path: Path) -> None:
    ready = prepared(tmp_path, MARKED, rounds=3, test=BOTH, trainer={"skip_model_tests": True})
    found = simulate(ready, EAGER)
    assert [[phase.phase for phase in record.phases] for record in found.rounds] == [
        ["train"],
        ["train"],
        ["train", "test"],
    ]
    for record in found.rounds:
        for receipt in record.phases[0].receipts:
            assert sorted(receipt.metrics) == sorted((*TAGGED, "loss"))
            assert set(receipt.weights) == {"examples"}
    globally = [record.metrics["train/global.accuracy"] for record in found.rounds]
    assert len(globally) + 1 == 4 == len(globally) + sum("test/accuracy" in record.metrics for record in found.rounds)
    data, objective = client_data(ready), EagerObjective(trained(ready), 1)
    for receipt in found.rounds[-1].phases[1].receipts:
        expected = measure(objective, found.model, data[receipt.client].test)
        assert receipt.metrics["accuracy"] == pytest.approx(expected["accuracy"])
    begun = measure(objective, ready.model, data["c0000"].test)
    assert marks(found.rounds, "global.accuracy")[0]["c0000"] == pytest.approx(begun["accuracy"])


def test_f4_measuring_changes_no_bit_and_says_what_the_test_phase_says(tmp_path: Path) -> None:
    plan = MARKED.replace("nn.ReLU()", "nn.ReLU(), nn.Dropout(0.3)")
    plain = simulate(prepared(tmp_path, plan, rounds=3, test={"ratio": 0.25}), EAGER)
    measured = simulate(prepared(tmp_path, plan, rounds=3, test=BOTH), EAGER)
    assert measured.model_digest == plain.model_digest
    tested = [{r.client: r.metrics["accuracy"] for r in record.phases[1].receipts} for record in measured.rounds]
    assert marks(measured.rounds, "global.accuracy")[1:] == tested[:-1]
    assert marks(measured.rounds, "local.accuracy") != marks(measured.rounds, "global.accuracy")


def test_f4_the_held_out_examples_stay_but_for_the_flag_and_another_ratio(tmp_path: Path) -> None:
    def seen(**test: Any) -> list[dict[str, float]]:
        found = simulate(prepared(tmp_path, MARKED, rounds=3, test={**BOTH, **test}), EAGER)
        assert marks(found.rounds, "global.mark") == marks(found.rounds, "local.mark")
        return marks(found.rounds, "global.mark")

    first, second, third = seen()
    assert first == second == third
    shuffled = seen(shuffle=True)
    assert all(shuffled[0][client] != shuffled[1][client] != shuffled[2][client] for client in first)
    other = seen(ratio=0.4)
    assert other[0] == other[1] and all(other[0][client] != first[client] for client in first)


def test_f4_no_example_is_in_both_parts_in_any_round() -> None:
    rows = torch.arange(40.0)
    data = split(Examples(rows, {"row": rows}), 0.25, 0.1, 3, "c0")
    for number in range(1, 6):
        there = data.shuffled(Randomness(3, number, "c0"))
        parts = [set(part.inputs.tolist()) for part in (there.train, there.test, there.validation)]  # type: ignore[union-attr]
        assert [len(part) for part in parts] == [26, 10, 4]
        assert set.union(*parts) == set(rows.tolist()) and parts[2] == set(data.validation.inputs.tolist())  # type: ignore[union-attr]
    given = replace(data, given=True)
    assert given.shuffled(Randomness(3, 1, "c0")) is given


def test_f5_a_test_flag_without_test_examples_warns_and_the_round_succeeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ready = prepared(tmp_path, MARKED, test={**BOTH, "ratio": 0.0})
    assert "`test.ratio` is 0" in caplog.text
    found = simulate(ready, EAGER)
    assert [sorted(record.metrics) for record in found.rounds] == [["train/loss"]] * 2
    assert all(not receipt.failure for record in found.rounds for receipt in record.phases[0].receipts)


FAILING = DIGITS.replace(
    "return (output.argmax(1) == target)", "raise ValueError('no');return (output.argmax(1) == target)"
)


def test_f5_a_failing_metric_is_logged_and_the_round_succeeds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = simulate(prepared(tmp_path, rounds=2, test=BOTH), EAGER)
    with caplog.at_level(logging.WARNING):
        found = simulate(prepared(tmp_path, FAILING, rounds=2, test=BOTH), EAGER)
    assert "the plan's accuracy failed: ValueError: no" in caplog.text
    assert found.model_digest == good.model_digest
    assert sorted(found.rounds[0].metrics) == ["test/loss", "train/global.loss", "train/local.loss", "train/loss"]
    assert found.rounds[-1].metrics["test/loss"] == good.rounds[-1].metrics["test/loss"]


def test_f5_a_metric_that_fails_on_some_batches_or_is_no_number_is_left_out(tmp_path: Path) -> None:
    sometimes = DIGITS.replace("return (output.argmax(1)", "1 / (len(target) - 1024)\n    return (output.argmax(1)")
    nan = DIGITS.replace(".float().mean()", ".float().mean() * float('nan')")
    for plan in (sometimes, nan):
        ready = prepared(tmp_path, plan)
        data = client_data(ready)["c0000"].train
        many = data.take(torch.arange(1500) % len(data))
        assert set(measure(EagerObjective(trained(ready), 1), ready.model, many)) == {"loss"}


def test_f7_h15_a_run_that_only_evaluates_changes_no_weight_and_tells_each_clients_metrics(tmp_path: Path) -> None:
    trained_before = simulate(prepared(tmp_path, MARKED), EAGER)
    from_file = tmp_path / "model.safetensors"
    from_file.write_bytes(encode_tensors(trained_before.model))
    ready = prepared(tmp_path, MARKED, rounds=1, training=False, initial="model.safetensors", test={"ratio": 1.0})
    found = simulate(ready, Engine())
    assert found.model_digest == trained_before.model_digest == model_digest(ready.model)
    (phase,) = found.rounds[0].phases
    assert (phase.phase, phase.outcome, phase.bytes_up) == ("test", "closed", 0)
    data, objective = client_data(ready), EagerObjective(trained(ready), 1)
    weights = {name: len(part.test) for name, part in data.items()}
    assert all(len(part.train) == 0 for part in data.values())
    for receipt in phase.receipts:
        assert receipt.metrics == pytest.approx(measure(objective, found.model, data[receipt.client].test))
        assert receipt.weights == {"examples": float(weights[receipt.client])}
    total = sum(r.metrics["accuracy"] * weights[r.client] for r in phase.receipts) / sum(weights.values())
    assert found.rounds[0].metrics["test/accuracy"] == pytest.approx(total)


def test_h15_an_evaluation_without_examples_or_with_another_model_is_refused(tmp_path: Path) -> None:
    refusals = {
        "nothing to evaluate on": {"training": False, "test": {"ratio": 0.0}},
        "`stop` has no meaning": {"training": False, "stop": {"metric": "test/loss", "patience": 2}},
        "orders training": {"training": False, "schedule": {"name": "timed", "every": 1.0}},
        "leaves nothing to train on": {"test": {"ratio": 1.0}},
        "cannot be read": {"initial": "nowhere.safetensors"},
        "is not as the plan's model has it": {"initial": "other.safetensors"},
    }
    (tmp_path / "other.safetensors").write_bytes(encode_tensors({"w": torch.ones(1)}))
    for said, changes in refusals.items():
        with pytest.raises(ConfigError, match=said):
            prepared(tmp_path, **changes)


def logged(ready: Prepared, data: ClientData) -> tuple[list[Logged], State]:
    """One client's training in round 1: what it said as it went on, and its state."""
    phase = ready.strategy.phase(ready.strategy.init(ready.model))
    assert isinstance(phase, Phase)
    heard: list[Logged] = []
    task = ClientTask(phase, EagerObjective(trained(ready), 1), Broadcast({"model": ready.model}), heard.append)
    _, after = run_client(task, Ask(data.name, 1, "train"), data, State(), Randomness(1, 1, data.name))
    return heard, after


def test_dry_run_takes_one_batch_and_batch_maxnum_bounds_an_epoch(tmp_path: Path) -> None:
    def steps(**local: Any) -> tuple[int, State]:
        ready = prepared(tmp_path, strategy={"name": "fedavg", "local": {"lr": 0.1, "log_interval": 1, **local}})
        heard, after = logged(ready, client_data(ready)["c0000"])
        assert [said.step for said in heard] == list(range(1, len(heard) + 1)) and heard[-1].steps == len(heard)
        return len(heard), after

    assert steps(dry_run=True, epochs=3, num_updates=9)[0] == 1
    assert steps(batch_maxnum=2, epochs=3) == (6, State({}, {"epoch": 3, "batch": 0}))
    assert steps(batch_maxnum=2, num_updates=3) == (3, State({}, {"epoch": 1, "batch": 1}))
    whole, _ = steps()
    assert steps(batch_maxnum=10_000)[0] == whole > 2


def test_every_log_interval_and_at_the_end_the_loss_is_said(tmp_path: Path) -> None:
    local = {"lr": 0.1, "num_updates": 7, "log_interval": 3}
    ready = prepared(tmp_path, strategy={"name": "fedavg", "local": local})
    heard, _ = logged(ready, client_data(ready)["c0001"])
    assert [(said.phase, said.step, said.steps) for said in heard] == [("train", n, 7) for n in (3, 6, 7)]
    assert all(set(said.metrics) == {"loss"} and said.metrics["loss"] > 0 for said in heard)


def personal(**changes: Any) -> dict[str, Any]:
    strategy = {"name": "fedavg", "local": {"lr": 0.1, "personal": ["2.*"]}}
    return {"strategy": strategy, "rounds": 3, "test": BOTH, **changes}


def test_personal_tensors_stay_with_their_client_and_are_merged_into_the_model(tmp_path: Path) -> None:
    ready = prepared(tmp_path, **personal())
    phase = ready.strategy.phase(ready.strategy.init(ready.model))
    assert isinstance(phase, Phase)
    assert sorted(phase.schema.parts["parameters"].tensors) == ["0.bias", "0.weight"]
    found = simulate(ready, EAGER)
    for name in ("2.weight", "2.bias"):
        assert torch.equal(found.model[name], ready.model[name])
    assert not torch.equal(found.model["0.weight"], ready.model["0.weight"])
    data, heads = client_data(ready), dict[str, torch.Tensor]()
    for client in ("c0000", "c0001"):
        _, state = logged(ready, data[client])
        heads[client] = state.tensors["personal"]["2.weight"]
        assert sorted(state.tensors["personal"]) == ["2.bias", "2.weight"]
        task = ClientTask(phase, EagerObjective(trained(ready), 1), Broadcast({"model": ready.model}))
        ask, rng = Ask(client, 2, "train"), Randomness(1, 2, client)
        again, _ = run_client(task, ask, data[client], state, rng)
        assert sorted(again.update["parameters"]) == ["0.bias", "0.weight"]
        merged = {**ready.model, **state.tensors["personal"]}
        expected = measure(EagerObjective(trained(ready), 1), merged, data[client].test)
        assert again.metrics["global.loss"] == pytest.approx(expected["loss"])
    assert not torch.equal(heads["c0000"], heads["c0001"])


def test_a_model_that_is_all_personal_is_never_aggregated(tmp_path: Path) -> None:
    local = {"lr": 0.1, "personal": ["*"]}
    found = simulate(prepared(tmp_path, strategy={"name": "fedavg", "local": local}, rounds=3), EAGER)
    assert found.model_digest == model_digest(prepared(tmp_path).model)
    losses = [record.metrics["train/loss"] for record in found.rounds]
    assert losses[2] < losses[1] < losses[0]


def test_a_pattern_that_names_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`head\.\*`"):
        prepared(tmp_path, strategy={"name": "fedavg", "local": {"lr": 0.1, "personal": ["head.*"]}})


def test_what_a_graph_cannot_do_falls_to_kernel_eager_with_its_reason(tmp_path: Path) -> None:
    for changes in ({"test": BOTH, "rounds": 2}, personal(test={"ratio": 0.2})):
        ready = prepared(tmp_path, **changes)
        found = simulate(ready, Engine("graph", "inline"))
        assert found.choice.kernel == "eager" and found.model_digest == simulate(ready, EAGER).model_digest
        assert any(why in found.choice.reason for why in ("around their work", "tensors of its own"))


def test_a_metric_whose_name_has_no_room_for_its_tag_is_refused(tmp_path: Path) -> None:
    plan = DIGITS.replace('{"accuracy": accuracy}', f'{{"{"a" * 60}": accuracy}}')
    prepared(tmp_path, plan)
    with pytest.raises(ConfigError, match="too long"):
        prepared(tmp_path, plan, test=BOTH)
