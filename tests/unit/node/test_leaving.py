"""What may leave a node, rule by rule, before a byte of it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.domain.codec import encode
from foedus.domain.errors import ForbiddenError
from foedus.domain.table import validate
from foedus.domain.tree import State
from foedus.node.leaving import check_leaving
from foedus.node.policy import Leave

TENSORS = {"update": {"body.weight": torch.zeros(10, 4), "head.weight": torch.zeros(2, 3)}}
METRICS = ("train/loss", "accuracy")


@pytest.fixture
def update(tmp_path: Path) -> Path:
    (tmp_path / "update").write_bytes(encode(State(TENSORS)))
    return tmp_path / "update"


def leave(**rules: Any) -> Leave:
    return validate(Leave, rules, "policy")


@pytest.mark.parametrize(
    ("rules", "rule"),
    [
        ({"tensors": ["body.*"]}, "leave.tensors"),
        ({"tensors": []}, "leave.tensors"),
        ({"tensor_bytes": 159}, "leave.tensor_bytes"),
        ({"update_bytes": 183}, "leave.update_bytes"),
        ({"metrics": ["accuracy"]}, "leave.metrics"),
        ({"metrics": []}, "leave.metrics"),
        ({"metric_count": 1}, "leave.metric_count"),
    ],
)
def test_what_may_not_leave_is_refused_with_the_rule(update: Path, rules: dict[str, Any], rule: str) -> None:
    with pytest.raises(ForbiddenError) as refused:
        check_leaving(leave(**rules), update, METRICS)
    assert refused.value.code == "policy_refused"
    assert f"`{rule}`" in refused.value.what


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"tensors": ["body.*", "head.weight"], "tensor_bytes": 160, "update_bytes": 184},
        {"metrics": ["train/*", "accuracy"], "metric_count": 2},
    ],
)
def test_what_may_leave_passes(update: Path, rules: dict[str, Any]) -> None:
    check_leaving(leave(**rules), update, METRICS)


def test_a_test_has_no_update_and_its_metrics_are_looked_at() -> None:
    check_leaving(leave(tensors=[]), None, METRICS)
    with pytest.raises(ForbiddenError):
        check_leaving(leave(metrics=["loss"]), None, METRICS)
