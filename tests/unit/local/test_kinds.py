"""What a run that aligns tables gives a plan of each depth, and which functions want it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foedus.domain.errors import PlanError
from foedus.domain.plain import Json
from foedus.domain.plan import PlanBundle, read_bundle
from foedus.local.kinds import begin, load_plan
from foedus.local.own import OwnPlan
from foedus.local.plan import TrainingPlan
from tests.plans import DIGITS

SCHEMA: dict[str, Json] = {"label": "label", "inputs": ["age", "ward"], "classes": {"ward": 4}}


class Sized(nn.Linear):
    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__(len(schema["inputs"]), 1)


class Fixed(nn.Linear):
    def __init__(self, schema: dict[str, Any] | None = None, *, bias: bool = True) -> None:
        assert schema is None
        super().__init__(5, 1, bias)


def digits() -> TrainingPlan:
    plan = load_plan(PlanBundle({"plan.py": DIGITS.encode()}, "plan.py"))
    assert isinstance(plan, TrainingPlan)
    return plan


@pytest.mark.parametrize(
    ("model", "width"),
    [(Sized, 2), (Fixed, 5), (partial(nn.Linear, 7, 1), 7), (lambda schema, *more: nn.Linear(9, 1), 9)],
    ids=["wants it", "has a default", "has what it needs", "and what may follow"],
)
def test_a_model_that_has_to_be_given_something_has_the_schema(model: Callable[..., nn.Module], width: int) -> None:
    assert begin(replace(digits(), model=model), 1, {}, SCHEMA).model["weight"].shape == (1, width)


def test_prepare_is_given_it_beside_the_columns() -> None:
    def prepare(columns: Any, schema: Any) -> Any:
        return columns["age"], schema["classes"]["ward"]

    plan = replace(digits(), prepare=prepare)
    begun = begin(plan, 1, {}, SCHEMA).plan
    assert isinstance(begun, TrainingPlan)
    assert begun.prepare({"age": torch.ones(1)}) == (torch.ones(1), 4)
    assert begin(begun, 1, {}, SCHEMA).plan == begun, "what has it wants it no more"
    with pytest.raises(PlanError, match=r"prepare\(\) wants the schema") as refused:
        begin(plan, 1, {})
    assert refused.value.code == "plan_wants_schema"


def test_a_program_finds_it_among_its_options() -> None:
    plan = load_plan(read_bundle(Path("examples/command/plan")))
    begun = begin(plan, 1, {"local": {"options": {}}}, SCHEMA)
    assert isinstance(begun.plan, OwnPlan)
    assert begun.plan.options["schema"] == SCHEMA
    assert "schema" not in begin(plan, 1, {}).plan.options  # type: ignore[union-attr]
