"""Buffered, timed and cyclic schedules, as pure machines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.domain.run import CohortTable
from foedus.domain.timing import BufferedTable, CyclicTable, StalenessTable, SynchronousTable, TimedTable
from foedus.schedules.buffered import buffered
from foedus.schedules.cyclic import cyclic
from foedus.schedules.named import contributions, schedule_of
from foedus.schedules.schedule import (
    Abandon,
    Ask,
    Asked,
    Close,
    Command,
    Draw,
    Event,
    Failed,
    Reported,
    Schedule,
    Tick,
    WakeAt,
)
from foedus.schedules.selectors import random, round_robin
from foedus.schedules.staleness import factor
from foedus.schedules.timed import timed

BUFFER_OF_TWO = BufferedTable(name="buffered", buffer=2)


def _feed(schedule: Schedule, out: str, events: list[Event]) -> list[Command]:
    state: Any
    state, commands = schedule.init(tuple(out))
    said = list(commands)
    for event in events:
        state, commands = schedule.advance(state, event)
        said += commands
    return said


def test_a_buffer_fills_its_free_slots_when_all_of_an_instant_was_heard() -> None:
    said = _feed(buffered(BUFFER_OF_TWO, 3), "", [Tick(0.0), Asked(("a", "b", "c"), 0.0)])
    assert said == [WakeAt(0.0), Draw(3, 0)]


def test_slots_that_become_free_at_one_instant_are_filled_together_and_later() -> None:
    events: list[Event] = [Reported("a", 0.0), Failed("b", 0.0), Tick(0.0)]
    assert _feed(buffered(BUFFER_OF_TWO, 4), "abcd", events) == [WakeAt(0.0), Draw(2, 0)]
    later: list[Event] = [Tick(0.0), Failed("a", 2.0), Failed("b", 2.0), Tick(2.0)]
    assert _feed(buffered(BUFFER_OF_TWO, 4), "abcd", later) == [WakeAt(0.0), WakeAt(2.0), Draw(2, 0)]


def test_a_full_buffer_closes_before_anybody_else_is_asked() -> None:
    events: list[Event] = [Reported("b", 0.0, 1), Reported("a", 0.0, 0)]
    said = _feed(buffered(BUFFER_OF_TWO, 4), "abcd", events)
    assert said == [WakeAt(0.0), Close(("a", "b"), (1.0, 2.0**-0.5))]


def test_what_is_too_stale_frees_its_slot_and_does_not_count() -> None:
    options = BufferedTable(name="buffered", buffer=2, staleness=StalenessTable(maximum=3))
    events: list[Event] = [Reported("a", 1.0, 4), Reported("b", 1.0, 3), Reported("c", 2.0)]
    assert _feed(buffered(options, 4), "abcd", events)[-1] == Close(("b", "c"), (0.5, 1.0))


def test_strangers_and_second_answers_do_not_fill_a_buffer() -> None:
    events: list[Event] = [Reported("a", 1.0), Reported("a", 1.0), Reported("z", 1.0)]
    assert not any(isinstance(command, Close) for command in _feed(buffered(BUFFER_OF_TWO, 4), "abcd", events))


def test_where_nobody_works_and_nobody_is_idle_a_buffer_closes_over_what_it_has() -> None:
    nobody: list[Event] = [Tick(1.0), Asked((), 1.0)]
    assert _feed(buffered(BUFFER_OF_TWO, 1), "a", [Reported("a", 1.0), *nobody])[-1] == Close(("a",), (1.0,))
    assert isinstance(_feed(buffered(BUFFER_OF_TWO, 1), "a", [Failed("a", 1.0), *nobody])[-1], Abandon)


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_a_buffer_never_has_more_out_than_the_concurrency_and_closes_over_distinct_clients(
    size: int, concurrency: int, data: st.DataObject
) -> None:
    schedule = buffered(BufferedTable(name="buffered", buffer=size), concurrency)
    state: Any
    state, commands = schedule.init(())
    out, at, fresh, waiting = set[str](), 0.0, 0, list[Event]()
    for _ in range(200):
        for command in commands:
            assert not isinstance(command, Abandon)
            if isinstance(command, Close):
                assert len(set(command.clients)) == size
                assert list(command.clients) == sorted(command.clients)
                return
            if isinstance(command, Draw):
                drawn = tuple(f"c{fresh + at:04}" for at in range(command.count))
                out, fresh = out | set(drawn), fresh + command.count
                waiting.append(Asked(drawn, at))
            else:
                assert isinstance(command, WakeAt)
                waiting.append(Tick(command.at))
        assert len(out) <= concurrency
        if not waiting:
            client = data.draw(st.sampled_from(sorted(out)))
            out -= {client}
            waiting.append(data.draw(st.sampled_from([Reported(client, at), Failed(client, at)])))
        state, commands = schedule.advance(state, waiting.pop(0))
    raise AssertionError("it was never closed")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "polynomial", "a": 0.5}, [1.0, 0.5, 0.25]),
        ({"name": "constant"}, [1.0, 1.0, 1.0]),
        ({"name": "hinge", "a": 10.0, "b": 4}, [1.0, 1.0, 1 / 111]),
        ({"maximum": 3}, [1.0, 0.5, None]),
    ],
)
def test_staleness_weighs_as_the_paper_says(options: dict[str, Any], expected: list[float | None]) -> None:
    table = StalenessTable(**options)
    assert [factor(table, tau) for tau in (0, 3, 15)] == expected


CYCLIC = cyclic(CyclicTable(name="cyclic", deadline=5.0))
TIMED = timed(TimedTable(name="timed", every=10.0), 2)


def test_a_timed_phase_closes_at_its_time_over_whoever_reported() -> None:
    events: list[Event] = [Tick(0.0), Asked(("a", "b"), 0.0), Reported("b", 4.0), Tick(4.0), Asked(("c",), 4.0)]
    said = _feed(TIMED, "", [*events, Tick(10.0)])
    assert said == [WakeAt(0.0), Draw(2, 0), WakeAt(10.0), WakeAt(4.0), Draw(1, 1), WakeAt(10.0), Close(("b",), (1.0,))]


def test_a_timed_phase_without_reports_stays_open_for_as_long_again() -> None:
    said = _feed(TIMED, "ab", [Tick(0.0), Tick(10.0), Reported("a", 10.0), Reported("b", 20.0), Tick(20.0)])
    assert said == [WakeAt(0.0), WakeAt(10.0), WakeAt(20.0), WakeAt(10.0), WakeAt(20.0), Close(("a", "b"), (1.0, 1.0))]


def test_what_reports_at_the_very_time_counts() -> None:
    events: list[Event] = [Tick(0.0), Reported("a", 10.0), Reported("b", 10.0), Tick(10.0)]
    assert _feed(TIMED, "ab", events)[-1] == Close(("a", "b"), (1.0, 1.0))


def test_cyclic_asks_one_and_closes_over_it() -> None:
    assert _feed(CYCLIC, "", [Asked(("a",), 0.0), Reported("a", 2.0)]) == [
        Draw(1, 0),
        WakeAt(5.0),
        Close(("a",)),
    ]


def test_cyclic_skips_who_fails_and_who_is_late_and_does_not_count_the_late_one() -> None:
    events: list[Event] = [Asked(("a",), 0.0), Failed("a", 1.0), Asked(("b",), 1.0), Tick(6.0), Asked(("c",), 6.0)]
    said = _feed(CYCLIC, "", [*events, Reported("b", 7.0), Reported("c", 8.0)])
    assert said == [Draw(1, 0), WakeAt(5.0), Draw(1, 1), WakeAt(6.0), Draw(1, 2), WakeAt(11.0), Close(("c",))]


def test_cyclic_gives_up_when_everybody_was_skipped() -> None:
    assert isinstance(_feed(CYCLIC, "", [Asked(("a",), 0.0), Failed("a", 1.0), Asked((), 1.0)])[-1], Abandon)


def test_run_toml_names_the_schedule_and_whom_it_draws() -> None:
    cohort = CohortTable(size=2)
    assert schedule_of(SynchronousTable(), cohort).init(("a",))[1] == (Ask(("a",)), WakeAt(600.0))
    named = [CyclicTable(name="cyclic"), TimedTable(name="timed", every=1.0, selector="round_robin"), BUFFER_OF_TWO]
    schedules = [schedule_of(table, cohort) for table in named]
    assert [schedule.drawer for schedule in schedules] == [round_robin, round_robin, random]
    assert [(schedule.draws, schedule.carries) for schedule in schedules] == [(True, False), (True, True), (True, True)]


def test_a_round_takes_as_many_contributions_as_its_schedule_closes_over() -> None:
    tables = [BUFFER_OF_TWO, CyclicTable(name="cyclic"), TimedTable(name="timed", every=1.0), SynchronousTable()]
    assert [contributions(table, CohortTable(size=7), 50) for table in tables] == [2, 1, 7, 7]
    assert contributions(SynchronousTable(), CohortTable(fraction=0.1), 50) == 5
