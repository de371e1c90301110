"""compose() refuses what does not fit; the catalogue refuses what it does not know; close commutes with slicing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.aggregation.mean import weighted_mean
from foedus.domain.errors import ConfigError
from foedus.domain.header import TensorSpec
from foedus.domain.round import Aggregate, PartSpec, Schema
from foedus.domain.training import LocalOptions
from foedus.domain.tree import Parts, State
from foedus.local.sgd import local_sgd
from foedus.strategies.catalogue import CATALOGUE, build
from foedus.strategies.stopping import next_round
from foedus.strategies.strategy import Done, Phase, Recipe, RunContext, compose
from tests.plans import BATCHNORM, SERVERS, prepared, spec


def _cut(parts: Parts, name: str, start: int, stop: int) -> Parts:
    return {p: {n: t.reshape(-1)[start:stop] for n, t in ts.items() if n == name} for p, ts in parts.items()}


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS.keys())
def test_close_by_slices_gives_the_bits_of_close(server: dict[str, Any], tmp_path: Path) -> None:
    strategy_table = {"name": "fedavg", "local": {"lr": 0.1}, "server": server}
    ready = prepared(tmp_path, BATCHNORM, strategy=strategy_table)
    strategy = ready.strategy
    assert strategy.sliced
    state = strategy.init(ready.model)
    phase = strategy.phase(state)
    assert isinstance(phase, Phase)
    torch.manual_seed(0)
    update: dict[str, dict[str, torch.Tensor]] = {part: {} for part in phase.schema.parts}
    for part, part_spec in phase.schema.parts.items():
        for name in part_spec.tensors:
            start = ready.model[name]
            update[part][name] = torch.randn(start.shape) if start.dtype.is_floating_point else start + 3
    whole = strategy.close(state, Aggregate(update, 1), ())
    for part, tensors in whole.tensors.items():
        for name, tensor in tensors.items():
            pieces = []
            for at in range(0, max(tensor.numel(), 1), 64):
                sliced = State(_cut(state.tensors, name, at, at + 64), state.data)
                closed = strategy.close(sliced, Aggregate(_cut(update, name, at, at + 64), 1), ())
                assert closed.data == whole.data
                pieces.append(closed.tensors[part][name])
            assert torch.equal(torch.cat(pieces), tensor.reshape(-1)), (part, name)


def test_a_round_is_train_then_test_then_done(tmp_path: Path) -> None:
    ready = prepared(tmp_path)
    state = ready.strategy.init(ready.model)
    names = []
    while not isinstance(phase := ready.strategy.phase(state), Done):
        names.append(phase.name)
        state = ready.strategy.close(state, Aggregate({}, 0), ())
    assert names == ["train", "test"]
    assert next_round(state).data == {"round": 2, "phase": 0}


def test_a_phase_without_contributions_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    ready = prepared(tmp_path)
    closed = ready.strategy.close(ready.strategy.init(ready.model), Aggregate({}, 0), ())
    assert all(torch.equal(closed.tensors["model"][name], tensor) for name, tensor in ready.model.items())


def test_parts_weighted_by_what_no_client_sends_are_refused(tmp_path: Path) -> None:
    ready = prepared(tmp_path)
    schema = Schema({"p": PartSpec({"w": TensorSpec((1,), "F32")}, "quality")}, ("examples",), ())
    mean = weighted_mean({"p": "quality"}, {"p": {"w": torch.float32}})
    recipe = Recipe("x", local_sgd(LocalOptions(lr=0.1)), schema, mean, lambda m: State(), lambda s, a: s)
    with pytest.raises(ConfigError) as refusal:
        compose(recipe, RunContext(ready.spec, ready.manifest))
    assert refusal.value.code == "strategy_unsound"
    assert "quality" in str(refusal.value)


@pytest.mark.parametrize(
    ("table", "code", "said"),
    [
        ({"name": "fedavgg"}, "strategy_unknown", "Did you mean `fedavg`?"),
        ({"name": "fedavg", "local": {"epochs": 2}}, "config_refused", "`local.lr`: field required"),
        ({"name": "fedavg", "local": {"lr": 0}}, "config_refused", "`local.lr`"),
        ({"name": "fedavg", "local": {"lr": float("nan")}}, "config_refused", "`local.lr`"),
        ({"name": "fedavg", "local": {"lr": 0.1, "epoch": 2}}, "config_refused", "Did you mean `epochs`?"),
        ({"name": "fedavg", "local": {"lr": 0.1, "optimizer": "adamw"}}, "config_refused", "`local.optimizer`"),
        ({"name": "fedavg", "local": {"lr": 0.1}, "server": {"beta1": 1.0}}, "config_refused", "`server.beta1`"),
        ({"name": "fedavg", "local": {"lr": 0.1}, "clip": 1}, "config_refused", "`clip`"),
    ],
)
def test_wrong_names_and_options_are_refused(table: dict[str, Any], code: str, said: str, tmp_path: Path) -> None:
    manifest = prepared(tmp_path).manifest
    with pytest.raises(ConfigError) as refusal:
        build(RunContext(spec(strategy=table), manifest))
    assert refusal.value.code == code
    assert said in str(refusal.value)


def test_every_strategy_of_the_catalogue_states_its_paper() -> None:
    for name, listing in CATALOGUE.items():
        text = __import__(listing.build.__module__, fromlist=["__doc__"]).__doc__ or ""
        assert "https://" in text, name


def test_the_schema_follows_the_manifest(tmp_path: Path) -> None:
    ready = prepared(tmp_path, BATCHNORM)
    phase = ready.strategy.phase(ready.strategy.init(ready.model))
    assert isinstance(phase, Phase)
    assert set(phase.schema.parts) == {"parameters", "buffers"}
    assert phase.schema.parts["buffers"].tensors["1.num_batches_tracked"] == TensorSpec((), "I64")
    assert replace(phase.schema, parts={}) == Schema({}, ("examples",), ("loss",))
