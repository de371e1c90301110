"""The policy's table: default deny, the farthest of several roles, and what the guide says of it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from sqlalchemy import column

from foedus.coordinator.identities import Person
from foedus.coordinator.policy import PEOPLE, POLICY, acts, covers, granted, reach, require, within
from foedus.domain.errors import ForbiddenError
from foedus.wire.people import NewToken

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "people.md"


def person(*roles: str, actions: tuple[str, ...] = ()) -> Person:
    return Person("us_1", "ana", "org_1", frozenset(roles), frozenset(actions))


def test_the_guide_shows_the_table_that_holds() -> None:
    rows = re.findall(r"^\| `([a-z]+\.[a-z]+)` \| (.*) \|$", GUIDE.read_text(), re.MULTILINE)
    assert {action: tuple(cells.split(" | ")) for action, cells in rows} == dict(POLICY)
    assert "| action | " + " | ".join(PEOPLE) + " |" in GUIDE.read_text()


@pytest.mark.parametrize("roles", [(), ("",), ("root",), ("Admin",), ("admin ",), ("node",), ("anyone",)])
def test_who_has_no_role_of_the_table_may_ask_who_they_are_and_nothing_else(roles: tuple[str, ...]) -> None:
    assert granted(frozenset(roles)) == {"self.read", "self.leave"}
    for action in (*POLICY, "no.such", ""):
        if not action.startswith("self."):
            with pytest.raises(ForbiddenError):
                require(person(*roles), action)


def test_several_roles_reach_as_far_as_the_farthest() -> None:
    order = ("-", "own", "org", "all")
    for one, other in itertools.combinations(PEOPLE, 2):
        for action, row in POLICY.items():
            farthest = max(row[PEOPLE.index(one)], row[PEOPLE.index(other)], key=order.index)
            assert reach(person(one, other), action) == farthest


def test_a_narrowed_token_has_no_other_action() -> None:
    narrow = person("operator", "admin", actions=("runs.read",))
    assert reach(narrow, "runs.read") == "org"
    for action in POLICY:
        if action != "runs.read":
            assert reach(narrow, action) == "-"
            with pytest.raises(ForbiddenError) as refusal:
                require(narrow, action)
            assert refusal.value.code == "token_too_narrow"


def test_objects_without_an_owner_are_nobody_s_but_the_operator_s() -> None:
    assert not covers(person("admin"), "nodes.read", "", "")
    assert not covers(Person("us_1", "a", "", frozenset({"admin"})), "nodes.read", "", "")
    assert covers(person("operator"), "nodes.read", "", "")


@pytest.mark.parametrize("role", PEOPLE)
def test_lists_are_cut_by_what_single_objects_are_judged_by(role: str) -> None:
    """The condition on rows and :func:`covers` say the same: compiled, it names exactly what the reach allows."""
    expected = {"-": "false", "own": "owner = 'us_1'", "org": "owner = 'us_1' OR org = 'org_1'", "all": "true"}
    for action in POLICY:
        condition = within(person(role), action, column("owner"), column("org"))
        assert str(condition.compile(compile_kwargs={"literal_binds": True})) == expected[reach(person(role), action)]


def test_a_route_cannot_declare_what_the_table_does_not_know() -> None:
    with pytest.raises(ValueError, match="not in the policy"):
        acts("runs.everything")


def test_every_action_can_be_named_in_a_token() -> None:
    assert NewToken(name="all", actions=tuple(POLICY)).actions == tuple(POLICY)
