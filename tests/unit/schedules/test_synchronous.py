"""The synchronous schedule, as a pure machine."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from foedus.schedules.schedule import Abandon, Ask, Close, Command, Event, Failed, Reported, Tick, WakeAt
from foedus.schedules.synchronous import synchronous


def _feed(minimum: int | None, clients: str, events: list[Event]) -> list[Command]:
    schedule = synchronous(minimum, 10.0)
    state: Any
    state, commands = schedule.init(tuple(clients))
    said = list(commands)
    for event in events:
        state, commands = schedule.advance(state, event)
        said += commands
    return said


def test_it_asks_everybody_once_and_sets_the_deadline() -> None:
    assert _feed(None, "ba", []) == [Ask(("a", "b")), WakeAt(10.0)]


def test_it_closes_when_all_answered_in_any_order() -> None:
    events: list[Event] = [Reported("b", 1.0), Reported("a", 2.0)]
    assert _feed(None, "ab", events)[2:] == [Close(("a", "b"))]


def test_a_failure_is_an_answer() -> None:
    assert _feed(1, "ab", [Failed("a", 1.0), Reported("b", 2.0)])[2:] == [Close(("b",))]


def test_a_second_answer_and_a_stranger_do_not_count() -> None:
    events: list[Event] = [Reported("a", 1.0), Reported("a", 1.5), Failed("a", 1.6), Reported("z", 2.0)]
    assert _feed(None, "ab", events)[2:] == []


def test_at_the_deadline_the_minimum_decides() -> None:
    events: list[Event] = [Reported("a", 1.0), Tick(10.0)]
    assert _feed(1, "abcd", events)[2:] == [Close(("a",))]
    assert isinstance(_feed(2, "abcd", events)[2], Abandon)
    assert isinstance(_feed(None, "abcd", events)[2], Abandon)
    assert _feed(None, "ab", events)[2:] == [Close(("a",))]


def test_nobody_is_never_enough() -> None:
    assert isinstance(_feed(None, "ab", [Failed("a", 1.0), Failed("b", 1.0)])[2], Abandon)
    assert isinstance(_feed(None, "ab", [Tick(10.0)])[2], Abandon)


def test_a_minimum_over_the_cohort_means_all() -> None:
    assert _feed(9, "ab", [Reported("a", 1.0), Reported("b", 1.0)])[2:] == [Close(("a", "b"))]


@given(st.permutations("abcde"), st.sets(st.sampled_from("abcde")))
def test_the_verdict_does_not_depend_on_who_answers_first(order: list[str], failing: set[str]) -> None:
    events: list[Event] = [Failed(c, 1.0) if c in failing else Reported(c, 1.0) for c in order]
    last = _feed(2, "abcde", events)[-1]
    good = tuple(sorted(set("abcde") - failing))
    assert last == Close(good) if len(good) >= 2 else isinstance(last, Abandon)


def _over_selected(events: list[Event]) -> list[Command]:
    schedule = synchronous(None, 10.0, goal=3)
    state: Any
    state, commands = schedule.init(tuple("abcde"))
    said = list(commands)
    for event in events:
        state, commands = schedule.advance(state, event)
        said += commands
    return said[2:]


def test_over_selection_closes_when_as_many_reported_as_were_wanted() -> None:
    events: list[Event] = [Reported("e", 1.0), Failed("b", 1.0), Reported("a", 2.0), Reported("d", 3.0)]
    assert _over_selected(events[:-1]) == []
    assert _over_selected(events) == [Close(("a", "d", "e"))]


def test_over_selection_needs_half_of_those_wanted_at_the_deadline() -> None:
    assert isinstance(_over_selected([Reported("a", 1.0), Tick(10.0)])[0], Abandon)
    assert _over_selected([Reported("a", 1.0), Reported("b", 1.0), Tick(10.0)]) == [Close(("a", "b"))]


def test_it_knows_when_everybody_will_be_counted() -> None:
    assert synchronous(None, 10.0).everyone(5, 9.9)
    assert not synchronous(None, 10.0).everyone(5, 10.0)
    assert synchronous(None, 10.0, goal=5).everyone(5, 9.9)
    assert not synchronous(None, 10.0, goal=4).everyone(5, 9.9)
