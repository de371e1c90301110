"""A plan's own options: its options.json is held to the letter, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from foedus.domain.errors import ConfigError, PlanError
from foedus.domain.plan import PlanBundle
from foedus.local.plan_options import check_of

ALL: dict[str, Any] = {
    "steps": {"type": "integer", "minimum": 1, "maximum": 9},
    "rate": {"type": "number", "minimum": 0, "default": 0.5},
    "kind": {"type": "string", "enum": ["a", "b"], "default": "a"},
    "quick": {"type": "boolean"},
    "name": {"type": "string"},
}


def bundle(schema: object) -> PlanBundle:
    return PlanBundle({"plan.py": b"", "options.json": json.dumps(schema).encode()}, "plan.py")


def schema(**changes: Any) -> dict[str, Any]:
    return {"type": "object", "properties": ALL, "required": ["steps"], "additionalProperties": False, **changes}


def test_options_are_checked_and_defaults_filled_in() -> None:
    check = check_of(bundle(schema()))
    assert check({"steps": 3}) == {"steps": 3, "rate": 0.5, "kind": "a"}
    given = {"steps": 3, "rate": 1, "kind": "b", "quick": True, "name": "x"}
    assert check(given) == given
    assert dict(check_of(PlanBundle({"plan.py": b""}, "plan.py"))({"any": 1})) == {"any": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "`steps`: field required"),
        ({"steps": 0}, "`steps`: input should be greater than or equal to 1"),
        ({"steps": 10}, "`steps`: input should be less than or equal to 9"),
        ({"steps": 1.5}, "`steps`: input should be a valid integer"),
        ({"steps": "1"}, "`steps`: input should be a valid integer"),
        ({"steps": 1, "rate": float("nan")}, "`rate`"),
        ({"steps": 1, "kind": "c"}, "`kind`: input should be 'a' or 'b'"),
        ({"steps": 1, "quick": 1}, "`quick`: input should be a valid boolean"),
        ({"steps": 1, "nam": "x"}, "Did you mean `name`?"),
    ],
)
def test_options_that_the_schema_does_not_allow_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_of(bundle(schema()))(options)
    assert refused.value.code == "config_refused"
    assert words in refused.value.what and "[strategy.local.options]" in refused.value.what


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        schema(type="array"),
        schema(additionalProperties=True),
        schema(required=["other"]),
        schema(patternProperties={}),
        {"properties": {"a": {"type": "object"}}},
        {"properties": {"a": {"type": "number", "multipleOf": 2}}},
        {"properties": {"a": {"type": "number", "minimum": 1, "default": 0}}},
        {"properties": {"a": {"type": "integer", "default": "x"}}},
        {"properties": {"a": {"type": "string", "enum": [1]}}},
        {"properties": {"_a": {"type": "number"}}},
        {"properties": {"class": {"type": "number"}}},
        {"properties": {"model_dump": {"type": "number"}}},
    ],
)
def test_a_schema_that_says_more_than_is_held_is_refused(wrong: object) -> None:
    with pytest.raises(PlanError) as refused:
        check_of(bundle(wrong))
    assert refused.value.code == "plan_options_malformed"


def test_bytes_that_are_no_schema_are_refused() -> None:
    for content in (b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(PlanError, match=r"options\.json"):
            check_of(PlanBundle({"plan.py": b"", "options.json": content}, "plan.py"))
