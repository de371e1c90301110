"""run.toml is validated whole, with the nearest right name."""

from __future__ import annotations

from typing import Any

import pytest

from foedus.domain.errors import ConfigError
from foedus.domain.run import parse_spec

GOOD: dict[str, Any] = {
    "plan": "plan.py",
    "rounds": 20,
    "seed": 1,
    "strategy": {"name": "fedavg", "local": {"lr": 0.1}},
    "cohort": {"size": 4},
    "data": {"name": "digits", "tags": ["digits"], "held_out": 0.2, "partition": {"name": "iid", "clients": 4}},
}


def test_a_good_run_keeps_its_values_and_gets_defaults() -> None:
    spec = parse_spec(GOOD)
    assert (spec.rounds, spec.seed, spec.cohort.size, spec.data.tags) == (20, 1, 4, ("digits",))
    assert spec.strategy.options == {"local": {"lr": 0.1}}
    assert (spec.test.ratio, spec.test.every, spec.schedule.deadline) == (0.2, 1, 600.0)


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"round": 3}, ["`round`", "Did you mean `rounds`?"]),
    "unknown inner key": (
        {"cohort": {"sise": 4}},
        ["`cohort.sise`", "fraction, minimum, over_selection, population, selector, size", "`size`"],
    ),
    "text for a number": ({"rounds": "twenty"}, ["`rounds`", "integer", "'twenty'"]),
    "boolean for a number": ({"rounds": True}, ["`rounds`", "True"]),
    "text for a share": ({"test": {"ratio": "0.2"}}, ["`test.ratio`", "'0.2'"]),
    "boolean for a share": ({"cohort": {"fraction": True}}, ["`cohort.fraction`", "True"]),
    "zero rounds": ({"rounds": 0}, ["`rounds`", "greater than or equal to 1"]),
    "negative seed": ({"seed": -1}, ["`seed`"]),
    "both size and fraction": ({"cohort": {"size": 2, "fraction": 0.5}}, ["exactly one of `size` and `fraction`"]),
    "neither size nor fraction": ({"cohort": {}}, ["exactly one of `size` and `fraction`"]),
    "fraction over one": ({"cohort": {"fraction": 1.5}}, ["`cohort.fraction`", "1.5"]),
    "an endless deadline": ({"schedule": {"deadline": float("inf")}}, ["`schedule.deadline`"]),
    "an unknown schedule": (
        {"schedule": {"name": "bufered"}},
        ["`schedule.name`", "cyclic", "Did you mean `buffered`?"],
    ),
    "an unknown option of a schedule": (
        {"schedule": {"name": "buffered", "bufer": 3}},
        ["`schedule.bufer`", "allowed: buffer, deadline, name, selector, staleness", "Did you mean `buffer`?"],
    ),
    "an unknown selector": (
        {"schedule": {"name": "cyclic", "selector": "roundrobin"}},
        ["`schedule.selector`", "Did you mean `round_robin`?"],
    ),
    "a missing option of a schedule": ({"schedule": {"name": "timed"}}, ["`schedule.every`", "required"]),
    "a schedule that is a number": ({"schedule": 3}, ["`schedule`", "(got 3)"]),
    "a fraction where so many work at a time": (
        {"schedule": {"name": "buffered"}, "cohort": {"fraction": 0.5}},
        ["`buffered` needs `cohort.size`"],
    ),
    "over-selection without a size": ({"cohort": {"fraction": 0.5, "over_selection": 1.3}}, ["needs `size`"]),
    "over-selection where clients are drawn": (
        {"schedule": {"name": "cyclic"}, "cohort": {"size": 4, "over_selection": 1.3}},
        ["`cohort.over_selection` has no meaning under the schedule `cyclic`"],
    ),
    "a negative speed": ({"time": {"speed": -1}}, ["`time.speed`", "greater than 0"]),
    "a latency that is no number": ({"time": {"network": {"latency": float("nan")}}}, ["`time.network.latency`"]),
    "an unknown distribution": (
        {"time": {"speed": {"name": "lognorm"}}},
        ["`time.speed.name`", "exponential, lognormal, uniform.", "Did you mean `lognormal`?"],
    ),
    "a distribution the wrong way round": (
        {"time": {"speed": {"name": "uniform", "low": 3, "high": 2}}},
        ["`time.speed`", "`low` is above `high`"],
    ),
    "a chance over one": ({"time": {"dropout": 1.5}}, ["`time.dropout`", "1.5"]),
    "a table that is text": ({"data": "digits"}, ["`data`"]),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD.keys())
def test_a_wrong_key_is_refused_by_name(change: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_spec({**GOOD, **change})
    assert refusal.value.code == "config_refused"
    assert all(words in str(refusal.value) for words in said)


def test_a_whole_number_is_a_number() -> None:
    assert parse_spec({**GOOD, "schedule": {"deadline": 30}}).schedule.deadline == 30.0


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_spec({**GOOD, "rounds": 0, "seeds": 1})
    assert "`rounds`" in str(refusal.value)
    assert "`seeds`" in str(refusal.value)


def test_a_missing_table_is_named() -> None:
    with pytest.raises(ConfigError, match="`strategy`"):
        parse_spec({key: value for key, value in GOOD.items() if key != "strategy"})
