"""What an update may not be; each refusal has its code and names the tensor."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch

from foedus.coordinator.checks import check_metrics, check_model, check_update, check_weights
from foedus.domain.codec import encode, encode_tensors
from foedus.domain.errors import ContributionError, FoedusError, IntegrityError
from foedus.domain.header import TensorSpec
from foedus.domain.plan import ModelManifest, ModelTensor
from foedus.domain.round import PartSpec, Schema
from foedus.domain.tree import State

SCHEMA = Schema(
    {
        "parameters": PartSpec({"w": TensorSpec((2, 3), "F32"), "b": TensorSpec((3,), "F32")}, "examples"),
        "buffers": PartSpec({"n": TensorSpec((), "I64")}, "examples"),
    },
    ("examples",),
    ("loss",),
)
Update = dict[str, dict[str, torch.Tensor]]


def good() -> Update:
    return {"parameters": {"w": torch.ones(2, 3), "b": torch.ones(3)}, "buffers": {"n": torch.tensor(3)}}


def with_parameter(name: str, tensor: torch.Tensor | None) -> Update:
    update = good()
    update["parameters"].pop(name, None)
    if tensor is not None:
        update["parameters"][name] = tensor
    return update


def renamed() -> Update:
    update = with_parameter("w", None)
    return {**update, "parameters": {**update["parameters"], "W": torch.ones(2, 3)}}


BAD = {
    "missing": (with_parameter("w", None), "tensor_missing", "parameters/w"),
    "missing part": ({"parameters": good()["parameters"]}, "tensor_missing", "buffers/n"),
    "extra": (with_parameter("x", torch.ones(1)), "tensor_extra", "parameters/x"),
    "extra part": ({**good(), "more": {"w": torch.ones(1)}}, "tensor_extra", "more/w"),
    "renamed": (renamed(), "tensor_missing", "parameters/w"),
    "transposed": (with_parameter("w", torch.ones(3, 2)), "tensor_shape", "parameters/w"),
    "flattened": (with_parameter("w", torch.ones(6)), "tensor_shape", "parameters/w"),
    "double": (with_parameter("b", torch.ones(3, dtype=torch.float64)), "tensor_dtype", "parameters/b"),
    "integers": (with_parameter("b", torch.ones(3, dtype=torch.int32)), "tensor_dtype", "parameters/b"),
    "NaN": (with_parameter("b", torch.tensor([1.0, math.nan, 1.0])), "update_not_finite", "parameters/b"),
    "infinity": (with_parameter("b", torch.tensor([1.0, 1.0, -math.inf])), "update_not_finite", "parameters/b"),
}


def test_an_update_as_declared_passes(tmp_path: Path) -> None:
    (tmp_path / "update").write_bytes(encode(State(good())))
    check_update(tmp_path / "update", SCHEMA)


@pytest.mark.parametrize(("update", "code", "name"), BAD.values(), ids=BAD.keys())
def test_an_update_that_differs_is_refused(update: Update, code: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "update").write_bytes(encode(State(update)))
    with pytest.raises(ContributionError) as refused:
        check_update(tmp_path / "update", SCHEMA)
    assert refused.value.code == code
    assert name in str(refused.value)


def test_one_nan_in_a_long_tensor_is_found(tmp_path: Path) -> None:
    long = torch.zeros((1 << 20) + 5)
    long[-1] = math.nan
    schema = Schema({"p": PartSpec({"w": TensorSpec(tuple(long.shape), "F32")}, "examples")}, ("examples",), ())
    (tmp_path / "update").write_bytes(encode(State({"p": {"w": long}})))
    with pytest.raises(ContributionError, match="p/w"):
        check_update(tmp_path / "update", schema)


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", pickle.dumps(good()), encode(State(good()))[:-1], encode(State(good())) + b"\0"],
    ids=["empty", "junk", "pickle", "cut", "longer"],
)
def test_other_bytes_are_refused_before_anything_is_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "update").write_bytes(content)
    with pytest.raises(IntegrityError) as refused:
        check_update(tmp_path / "update", SCHEMA)
    assert refused.value.code == "not_safetensors"


def test_a_model_is_held_to_its_manifest(tmp_path: Path) -> None:
    manifest = ModelManifest((ModelTensor("w", (2,), "F32", "parameter", "Linear"),), {"loss": "min"})
    (tmp_path / "good").write_bytes(encode_tensors({"w": torch.ones(2)}))
    check_model(tmp_path / "good", manifest)
    (tmp_path / "bad").write_bytes(encode_tensors({"w": torch.ones(3)}))
    with pytest.raises(ContributionError) as refused:
        check_model(tmp_path / "bad", manifest)
    assert refused.value.code == "tensor_shape"


@pytest.mark.parametrize(
    "weights",
    [{"examples": value} for value in (0.0, -1.0, math.nan, math.inf, 1e10)] + [{}, {"examples": 1.0, "mass": 1.0}],
    ids=str,
)
def test_implausible_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(FoedusError) as refused:
        check_weights(weights, SCHEMA)
    assert refused.value.code == "weight_refused"


@pytest.mark.parametrize("metrics", [{"loss": math.nan}, {"loss": -math.inf}, {"loss": 1.0, "other": 1.0}], ids=str)
def test_unknown_or_infinite_metrics_are_refused(metrics: dict[str, float]) -> None:
    with pytest.raises(FoedusError) as refused:
        check_metrics(metrics, SCHEMA)
    assert refused.value.code == "metric_refused"
