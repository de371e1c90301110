"""Training arguments are strict, are refused before anything runs, and have one spelling once they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foedus.domain.errors import ConfigError
from foedus.domain.run import parse_spec
from foedus.domain.training import LocalOptions, check_arguments
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare_spec
from foedus.engine.simulate import simulate
from foedus.strategies.catalogue import check_options
from tests.plans import prepared, table

EAGER = Engine("eager", "inline")
BARE: dict[str, Any] = {"name": "fedavg", "local": {}}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"lr": 0.1, "epoch": 2}, "`local.epoch` is not a key"),
    "text for a number": ({"lr": 0.1, "epochs": "2"}, "`local.epochs`"),
    "a share of an update": ({"lr": 0.1, "num_updates": 1.5}, "`local.num_updates`"),
    "a number for a switch": ({"lr": 0.1, "dry_run": 1}, "`local.dry_run`"),
    "no batches": ({"lr": 0.1, "batch_maxnum": 0}, "`local.batch_maxnum`"),
    "no interval": ({"lr": 0.1, "log_interval": 0}, "`local.log_interval`"),
}


@pytest.mark.parametrize(("local", "said"), WRONG.values(), ids=WRONG.keys())
def test_f3_unknown_or_ill_typed_arguments_are_refused_and_named(local: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as here:
        check_options("fedavg", {"local": local})
    assert (here.value.code, said in str(here.value)) == ("config_refused", True)
    with pytest.raises(ConfigError) as on_a_node:
        check_arguments({"local": local})
    assert (on_a_node.value.code, said in str(on_a_node.value)) == ("arguments_refused", True)


def test_f3_num_updates_win_over_epochs(tmp_path: Path) -> None:
    assert LocalOptions(lr=0.1, epochs=7, num_updates=4).updates(25) == 4
    local = {"lr": 0.1, "num_updates": 4}
    both = prepared(tmp_path, strategy={"name": "fedavg", "local": {**local, "epochs": 7}})
    one = prepared(tmp_path, strategy={"name": "fedavg", "local": local})
    other = prepared(tmp_path, strategy={"name": "fedavg", "local": {"lr": 0.1, "epochs": 7}})
    digest = simulate(both, EAGER).model_digest
    assert digest == simulate(one, EAGER).model_digest != simulate(other, EAGER).model_digest


ARGUMENTS: dict[str, Any] = {
    "epochs": 3,
    "num_updates": 5,
    "dry_run": False,
    "batch_maxnum": 2,
    "log_interval": 4,
    "loader_args": {"batch_size": 20},
    "optimizer_args": {"lr": 0.05, "momentum": 0.5, "weight_decay": 0.01},
    "random_seed": 11,
    "test_ratio": 0.25,
    "test_on_global_updates": True,
    "test_on_local_updates": True,
    "shuffle_testing_dataset": True,
    "share_persistent_buffers": True,
    "use_gpu": False,
}


def run(arguments: dict[str, Any], **changes: Any) -> dict[str, Any]:
    usual = {key: value for key, value in table(strategy=BARE, **changes).items() if key != "seed"}
    return {**usual, "training_args": arguments}


def test_f3_the_arguments_of_fed_biomed_mean_the_same() -> None:
    spec = parse_spec(run(ARGUMENTS))
    local = spec.strategy.options["local"]
    assert local == {
        **{"epochs": 3, "num_updates": 5, "dry_run": False, "batch_maxnum": 2, "log_interval": 4, "batch_size": 20},
        **{"lr": 0.05, "momentum": 0.5, "weight_decay": 0.01},
    }
    tests = (spec.test.ratio, spec.test.on_global_updates, spec.test.on_local_updates, spec.test.shuffle)
    assert (spec.seed, *tests) == (11, 0.25, True, True, True)
    check_arguments(spec.strategy.options)
    assert parse_spec(run({"epochs": 1, "optimizer_args": {"lr": 0.1}})).test.ratio == 0.0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"epochs": 1, "epoch": 1}, "`epoch` is not a key"),
    "ill-typed": ({"epochs": "1"}, "`epochs`"),
    "unknown within": ({"epochs": 1, "loader_args": {"size": 3}}, "`loader_args.size`"),
    "another meaning": ({"epochs": 1, "dp_args": {"sigma": 1.0}}, "`dp_args`"),
    "a device": ({"epochs": 1, "use_gpu": True}, "`use_gpu`"),
    "neither of both": ({"dry_run": True}, "neither `epochs` nor `num_updates`"),
    "nulls": ({"epochs": None, "num_updates": None}, "neither `epochs` nor `num_updates`"),
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_f3_other_arguments_of_fed_biomed_are_refused_and_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_spec(run(arguments))
    assert (refusal.value.code, said in str(refusal.value)) == ("config_refused", True)


def test_an_argument_that_is_said_twice_and_differently_is_refused() -> None:
    with pytest.raises(ConfigError, match="test_ratio"):
        parse_spec(run({"epochs": 1, "test_ratio": 0.25}, test={"ratio": 0.3}))
    assert parse_spec(run({"epochs": 1, "test_ratio": 0.25}, test={"ratio": 0.25})).test.ratio == 0.25
    assert parse_spec(run({"epochs": 1}, test={"ratio": 0.3})).test.ratio == 0.3


STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"local_epochs": 1, "local_steps": 5}, "are both said"),
    "neither": ({"local_epochs": None, "local_steps": None}, "neither is said"),
    "one of each kind": ({"local_epochs": 1, "num_updates": 5}, "are both said"),
    "the same twice": ({"local_steps": 5, "num_updates": 5}, "are both said"),
}


@pytest.mark.parametrize(("local", "said"), STEPS.values(), ids=STEPS.keys())
def test_h9_both_of_local_epochs_and_local_steps_or_neither_are_refused(local: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_spec(table(strategy={"name": "fedavg", "local": {"lr": 0.1, **local}}))
    assert refusal.value.code == "config_refused"
    assert all(word in str(refusal.value) for word in (said, "`local_epochs`", "`local_steps`"))


def test_h9_one_of_local_epochs_and_local_steps_is_taken(tmp_path: Path) -> None:
    for name, known, count in (("local_epochs", "epochs", 2), ("local_steps", "num_updates", 5)):
        spec = parse_spec(table(strategy={"name": "fedavg", "local": {"lr": 0.1, name: count}}))
        assert spec.strategy.options == {"local": {"lr": 0.1, known: count}}
    (tmp_path / "plan.py").write_text(Path("examples/digits/plan.py").read_text())
    prepare_spec(spec, tmp_path)


def test_h9_neither_is_refused_where_both_are_null() -> None:
    with pytest.raises(ConfigError, match=r"local\.epochs"):
        check_options("fedavg", {"local": {"lr": 0.1, "epochs": None, "num_updates": None}})
