"""Plans are imported from bytes; what is wrong with one is said with its line."""

from __future__ import annotations

import sys

import pytest
import torch

from foedus.domain.errors import PlanError
from foedus.domain.plan import PlanBundle
from foedus.local.kinds import load_plan
from foedus.local.plan import build_model, manifest_of, tensors_of

GOOD = """
import torch
from torch import nn
def model(): return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
loss = nn.functional.cross_entropy
def prepare(columns): return columns["x"], columns["y"]
metrics = {"error": lambda output, target: output.sum()}
directions = {"error": "min"}
"""


def _bundle(text: str, **others: str) -> PlanBundle:
    return PlanBundle(
        {"plan.py": text.encode(), **{k.replace("__", "/") + ".py": v.encode() for k, v in others.items()}}, "plan.py"
    )


def _code(text: str) -> tuple[str, str]:
    with pytest.raises(PlanError) as refusal:
        load_plan(_bundle(text))
    return refusal.value.code, str(refusal.value)


def test_a_good_plan_is_loaded() -> None:
    plan = load_plan(_bundle(GOOD))
    assert plan.directions == {"error": "min"}
    model = build_model(plan, 1)
    manifest = manifest_of(plan, model)
    kinds = {tensor.name: tensor.kind for tensor in manifest.tensors}
    assert kinds["0.weight"] == "parameter"
    assert kinds["1.running_mean"] == kinds["1.num_batches_tracked"] == "buffer"
    assert manifest.metrics == {"loss": "min", "error": "min"}
    assert {tensor.name: tensor.module for tensor in manifest.tensors}["0.weight"] == "Linear"


def test_initial_parameters_come_from_the_seed_alone() -> None:
    plan = load_plan(_bundle(GOOD))
    torch.manual_seed(99)
    first = tensors_of(build_model(plan, 1))["0.weight"].clone()
    assert torch.equal(first, tensors_of(build_model(plan, 1))["0.weight"])
    assert not torch.equal(first, tensors_of(build_model(plan, 2))["0.weight"])


def test_a_plan_may_have_modules_beside_it() -> None:
    text = "from .net.layers import width\n" + GOOD.replace("nn.Linear(3, 2)", "nn.Linear(3, width)").replace(
        "BatchNorm1d(2)", "BatchNorm1d(width)"
    )
    plan = load_plan(_bundle(text, net__layers="width = 5"))
    assert tensors_of(build_model(plan, 1))["0.weight"].shape == (5, 3)


def test_two_plans_of_the_same_process_do_not_mix() -> None:
    first = load_plan(_bundle("from .a import width\n" + GOOD, a="width = 5"))
    second = load_plan(_bundle("from .a import width\n" + GOOD, a="width = 6"))
    assert first.model is not second.model
    widths = [sys.modules[f"{plan.prepare.__module__.rpartition('.')[0]}.a"].width for plan in (first, second)]
    assert widths == [5, 6]


def test_a_plan_may_import_beside_itself_when_it_is_called() -> None:
    text = GOOD + "\ndef model():\n    from .net import width\n    return nn.Linear(3, width)\n"
    assert tensors_of(build_model(load_plan(_bundle(text, net="width = 4")), 1))["weight"].shape == (4, 3)


def test_a_frozen_parameter_is_not_trained() -> None:
    text = GOOD + "\ndef model():\n    m = nn.Linear(3, 2)\n    m.bias.requires_grad_(False)\n    return m\n"
    plan = load_plan(_bundle(text))
    kinds = {tensor.name: tensor.kind for tensor in manifest_of(plan, build_model(plan, 1)).tensors}
    assert kinds == {"weight": "parameter", "bias": "frozen"}


def test_tied_parameters_stand_once() -> None:
    text = GOOD + (
        "\nclass Tied(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = nn.Linear(3, 3)\n        self.b = nn.Linear(3, 3)\n        self.b.weight = self.a.weight\n"
        "def model(): return Tied()\n"
    )
    plan = load_plan(_bundle(text))
    assert sorted(tensors_of(build_model(plan, 1))) == ["a.bias", "a.weight", "b.bias"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\nimport no_such_package\n", ["ModuleNotFoundError", "no_such_package", "plan.py, line 2"]),
        ("x = 1\ndef model(:\n", ["SyntaxError"]),
        ("x = 1\n1 / 0\n", ["ZeroDivisionError", "line 2"]),
        ("import sys\nsys.exit(3)\n", ["SystemExit", "line 2"]),
        ("# \xff".encode("latin-1").decode("latin-1") + "\nraise RuntimeError('no')", ["RuntimeError: no"]),
    ],
)
def test_a_plan_that_does_not_import_is_told_with_its_line(text: str, said: list[str]) -> None:
    code, words = _code(text)
    assert code == "plan_does_not_import"
    assert all(part in words for part in said), words


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("del loss", "no function loss"),
        ("del model", "no function model"),
        ("del prepare", "no function prepare"),
        ("loss = 3", "no function loss"),
        ("metrics = [1]", "`metrics`"),
        ("metrics = {'a/b': loss}", "`metrics`"),
        ("metrics = {'loss': loss}", "`metrics`"),
        ("directions = {'error': 'up'}", "`directions`"),
        ("directions = {'other': 'max'}", "`directions`"),
    ],
)
def test_an_incomplete_plan_says_what_is_missing(change: str, said: str) -> None:
    code, words = _code(GOOD + "\n" + change)
    assert code == "plan_incomplete"
    assert said in words


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("raise ValueError('no')", "plan_model_failed"),
        ("return 5", "plan_model_refused"),
        ("return nn.ReLU()", "plan_model_refused"),
        (
            "m = nn.Linear(2, 2); m.register_parameter('a' * 300, nn.Parameter(torch.ones(1))); return m",
            "plan_model_refused",
        ),
        ("m = nn.Linear(2, 2); m.c = nn.Parameter(torch.ones(1, dtype=torch.cfloat)); return m", "plan_model_refused"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(body: str, code: str) -> None:
    plan = load_plan(_bundle(GOOD + f"\ndef model(): {body}\n"))
    with pytest.raises(PlanError) as refusal:
        build_model(plan, 1)
    assert refusal.value.code == code
