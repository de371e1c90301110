"""Rounds driven by hand come to what a simulation comes to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import foedus
from foedus.domain.errors import DataError, UsageError
from tests.unit.api.test_simulation import RUN, linear_data, linear_plan

DIGITS = Path("examples/digits/run.toml")


@pytest.fixture
def process() -> Iterator[foedus.IterativeProcess]:
    with foedus.iterative_process(DIGITS, {"cohort.size": 3}, kernel="eager") as made:
        yield made


def test_rounds_by_hand_are_the_simulation_s_bit_for_bit(process: foedus.IterativeProcess) -> None:
    state = process.initialize()
    records = []
    for _ in range(3):
        state, record = process.next(state)
        records.append(record)
    whole = foedus.simulate(DIGITS, {"cohort.size": 3, "rounds": 3}, kernel="eager", executor="inline", progress=False)
    assert [r.model for r in records] == [r.model for r in whole.rounds]
    assert [r.phases[0].asked for r in records] == [r.phases[0].asked for r in whole.rounds]
    assert process.evaluate(state) == whole.held_out


def test_a_state_is_a_value(process: foedus.IterativeProcess) -> None:
    start = process.initialize()
    first, record = process.next(start)
    again, same = process.next(start)
    assert record.model == same.model
    assert process.next(first)[1].model == process.next(again)[1].model
    assert first.state.data["round"] == 2


def test_named_clients_are_asked_and_no_others(process: foedus.IterativeProcess) -> None:
    _, record = process.next(process.initialize(), ["c0002", "c0000"])
    assert [phase.asked for phase in record.phases] == [("c0000", "c0002")] * 2


def test_data_may_be_given_round_by_round() -> None:
    with foedus.iterative_process(RUN, plan=linear_plan(), data=linear_data()) as process:
        state, _ = process.next(process.initialize())
        visitors = {"visitor": linear_data(1)["hospital-0"]}
        state, record = process.next(state, visitors)
        assert record.phases[0].asked == ("visitor",)
        state, record = process.next(state)
        assert set(record.phases[0].asked) <= linear_data().keys()
        assert record.round == 3


def test_rounds_go_on_after_the_last_and_after_an_early_stop() -> None:
    stop = {"stop.metric": "test/error", "stop.target": 1e9, "rounds": 1}
    with foedus.iterative_process(RUN, stop, plan=linear_plan(), data=linear_data()) as process:
        state = process.initialize()
        for number in (1, 2, 3):
            state, record = process.next(state)
            assert record.round == number


def test_processes_of_their_own_give_the_same_bits() -> None:
    with (
        foedus.iterative_process(DIGITS, kernel="eager") as inline,
        foedus.iterative_process(DIGITS, kernel="eager", executor="workers", workers=2) as workers,
    ):
        one, record = inline.next(inline.initialize())
        two, same = workers.next(workers.initialize())
        assert record.model == same.model
        assert inline.next(one)[1].model == workers.next(two)[1].model
        with pytest.raises(UsageError) as refused:
            workers.next(two, linear_data())
        assert refused.value.code == "process_refused"


def test_unknown_and_no_clients_are_refused(process: foedus.IterativeProcess) -> None:
    state = process.initialize()
    with pytest.raises(DataError) as refused:
        process.next(state, ["c0000", "nobody"])
    assert refused.value.code == "client_unknown"
    with pytest.raises(DataError):
        process.next(state, [])
    assert list(process.clients) == ["c0000", "c0001", "c0002", "c0003"]


def test_rounds_that_overlap_are_driven_by_hand_too() -> None:
    run = Path("examples/fedbuff/run.toml")
    whole = foedus.simulate(run, {"rounds": 4}, kernel="eager", executor="inline", progress=False)
    with foedus.iterative_process(run, kernel="eager") as process:
        state, models = process.initialize(), []
        for _ in range(4):
            state, record = process.next(state)
            models.append(record.model)
        assert models == [record.model for record in whole.rounds]
        with pytest.raises(UsageError) as refused:
            process.next(state, ["c0000"])
        assert refused.value.code == "process_refused"
