"""Case 64: what leaves a node has the names, shapes and counts that were fixed before any data was touched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.domain.codec import encode, encode_tensors
from foedus.domain.tree import State
from foedus.node.frames import Done, Failed, Order, Stepped
from foedus.node.outgoing import checked, heard
from foedus.wire.messages import Sends
from foedus.wire.progress import Point
from tests.unit.node.support import PLAN, assignment, bundle_of

MODEL = {"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(3)}
SENDS = Sends(parts=("parameters",), weights=("examples",), metrics=("loss",))
ROW = "5.1_3.5_1.4_0.2"


def order(folder: Path, sends: Sends | None = SENDS) -> Order:
    (folder / "model").write_bytes(encode_tensors(MODEL))
    (folder / "plan").write_bytes(bundle_of().to_bytes())
    return Order(
        assignment=assignment(bundle_of(), sends=sends),
        bundle=str(folder / "plan"),
        parts={"model": str(folder / "model")},
        dataset=str(folder / "data.npz"),
        state=None,
    )


def said(
    folder: Path, update: bytes, sends: Sends | None = SENDS, metrics: Mapping[str, float] | None = None, **more: Any
) -> Done | Failed:
    """What may leave of a work that says to have made this."""
    (folder / "update").write_bytes(update)
    fields = {"weights": {"examples": 8.0}, "metrics": metrics or {"loss": 1.0}, "seconds": 1.0, "state": 0, **more}
    return checked(order(folder, sends), Done(update=len(update), **fields), folder / "update")


def refused(answer: Done | Failed) -> str:
    assert isinstance(answer, Failed) and answer.code in ("output_refused", "not_safetensors"), answer
    assert ROW not in answer.model_dump_json(), "not even the refusal tells it"
    return answer.reason


def made(**tensors: torch.Tensor) -> bytes:
    return encode(State({"parameters": {**MODEL, **tensors}}))


def with_header(change: Any) -> bytes:
    """An update whose header was written by somebody else; its elements are in place."""
    content = made()
    length = int.from_bytes(content[:8], "little")
    text = change(content[8 : 8 + length])
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def test_case_64_what_was_asked_for_leaves(tmp_path: Path) -> None:
    assert isinstance(said(tmp_path, made()), Done)
    assert isinstance(said(tmp_path, made(), sends=None), Done), "a coordinator of before names nothing"
    test = Sends(weights=("examples",), metrics=("loss", "accuracy"))
    assert isinstance(said(tmp_path, b"", test, {"loss": 1.0, "accuracy": 0.5}), Done)


@pytest.mark.parametrize("sends", [SENDS, None], ids=["named", "not named"])
def test_case_64_a_tensor_s_name_shape_dtype_and_part_carry_nothing(tmp_path: Path, sends: Sends | None) -> None:
    updates = {
        "extra": made(**{ROW: torch.zeros(1)}),
        "renamed": encode(State({"parameters": {ROW: torch.zeros(3)}})),
        "shape": made(**{"0.bias": torch.zeros(5)}),
        "empty": made(**{f"0.{ROW}": torch.zeros(0)}),
        "rank": made(**{"0.bias": torch.zeros(3, 1)}),
        "dtype": made(**{"0.bias": torch.zeros(3, dtype=torch.float64)}),
        "part": encode(State({ROW: MODEL})),
    }
    for name, update in updates.items():
        assert refused(said(tmp_path, update, sends)), name


def test_case_64_bytes_beside_the_elements_carry_nothing(tmp_path: Path) -> None:
    def table(content: bytes, **more: Any) -> bytes:
        return json.dumps({**json.loads(content), **more}, separators=(",", ":")).encode()

    changes = {
        "metadata": lambda text: table(text, __metadata__={"foedus": "{}", "rows": ROW}),
        "data": lambda text: table(text, __metadata__={"foedus": json.dumps({"rows": ROW})}),
        "key": lambda text: text.replace(b'"dtype"', b'"rows":"' + ROW.encode() + b'","dtype"', 1),
        "blanks": lambda text: text + b" \t" * 40,
        "escapes": lambda text: text.replace(b'"dtype"', b'"\\u0064type"', 1),
        "order": lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")).encode(),
    }
    for name, change in changes.items():
        assert refused(said(tmp_path, with_header(change))), name
    for name, content in {"after": made() + ROW.encode(), "no file": ROW.encode(), "short": made()[:-1]}.items():
        assert refused(said(tmp_path, content)), name


def test_case_64_names_of_metrics_and_weights_and_their_number_carry_nothing(tmp_path: Path) -> None:
    assert "metric" in refused(said(tmp_path, made(), metrics={"loss": 1.0, ROW: 0.0}))
    assert "metric" in refused(said(tmp_path, made(), metrics={f"m{number}": 0.0 for number in range(1000)}))
    assert "weight" in refused(said(tmp_path, made(), weights={"examples": 8.0, ROW: 1.0}))
    assert "none is asked" in refused(said(tmp_path, made(), Sends(weights=("examples",), metrics=("loss",))))
    assert "no update" in refused(said(tmp_path, b""))
    for nonsense in ({"seconds": 1e300}, {"timings": {ROW: 1.0}}):
        assert "longer" in refused(said(tmp_path, made(), **nonsense))


def test_case_64_what_streams_out_while_it_works_has_the_names_that_were_asked_for(tmp_path: Path) -> None:
    point = Point(step=1, steps=2, values={"loss": 0.5, ROW: 1.0})
    told = heard(order(tmp_path), Stepped(steps=1, logged=(point,)))
    assert [dict(each.values) for each in told.logged] == [{"loss": 0.5}]


@pytest.mark.parametrize(
    ("failed", "code", "reason"),
    [
        ({"code": ROW, "reason": ROW}, "work_failed", "inside the node"),
        ({"code": "plan_failed", "reason": ROW}, "plan_failed", "code failed."),
        ({"code": "policy_refused", "reason": ROW}, "work_failed", "inside the node"),
        ({"code": "plan_failed", "raised": "ValueError"}, "plan_failed", "It raised ValueError."),
        ({"code": "plan_failed", "raised": "x5_1"}, "plan_failed", "It raised an exception."),
        (
            {"code": "plan_failed", "raised": "KeyError", "file": "plan.py", "line": 4},
            "plan_failed",
            "(plan.py, line 4).",
        ),
        ({"code": "plan_failed", "raised": "KeyError", "file": "plan.py", "line": 5135}, "plan_failed", "KeyError."),
        ({"code": "plan_failed", "raised": "KeyError", "file": ROW, "line": 1}, "plan_failed", "KeyError."),
    ],
    ids=str,
)
def test_case_64_a_failure_s_words_carry_nothing(
    tmp_path: Path, failed: dict[str, Any], code: str, reason: str
) -> None:
    told = checked(order(tmp_path), Failed(**{"reason": "", "detail": ROW, **failed}), tmp_path / "update")
    assert isinstance(told, Failed) and told.code == code
    assert told.reason.endswith(reason) or reason in told.reason
    assert ROW not in told.code + told.reason and told.detail == ROW, "the owner's log has it"


def test_what_the_plan_calls_its_own_errors_may_be_told(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    (tmp_path / "plan").write_bytes(bundle_of(f"{PLAN}\nclass TooFew(Exception): ...\n").to_bytes())
    told = checked(wanted, Failed(code="plan_failed", reason="", raised="TooFew"), tmp_path / "update")
    assert isinstance(told, Failed) and told.reason.endswith("It raised TooFew.")
