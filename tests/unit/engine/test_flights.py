"""The virtual clock, by hand: who is asked when, in which order answers come, how stale they are, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foedus.domain.errors import ConfigError, QuorumError
from foedus.domain.round import PhaseRecord, RoundRecord
from foedus.domain.tree import State
from foedus.engine.choice import Choice, Engine
from foedus.engine.simulate import Result, client_data, simulate
from foedus.engine.snapshot import Snapshot
from tests.plans import DIGITS, prepared

EAGER = Engine("eager", "inline")


def _run(folder: Path, latencies: str, keeper: Any = None, plan: str = DIGITS, **changes: Any) -> Result:
    """A run of one client per latency (seconds), c0000 …; nothing is tested."""
    values = latencies.split()
    (folder / "trace.csv").write_text("client,latency\n" + "".join(f"c{n:04},{v}\n" for n, v in enumerate(values)))
    data = {"name": "digits", "partition": {"name": "iid", "clients": len(values)}}
    quick = {"name": "fedavg", "local": {"lr": 0.1, "batch_size": 1000}}
    run = {"strategy": quick, "data": data, "test": {"ratio": 0}, "time": {"trace": "trace.csv"}, **changes}
    return simulate(prepared(folder, plan, **run), EAGER, (), keeper)


def _trains(result: Result) -> list[PhaseRecord]:
    return [phase for record in result.rounds for phase in record.phases]


def _told(result: Result) -> list[tuple[str, float]]:
    """Per round: who counted, with its staleness if any and a mark for what else was heard; and the time."""
    rows = []
    for record in result.rounds:
        words = [
            f"{receipt.client[-1]}{'!' if receipt.failure else ''}{receipt.staleness or ''}"
            for receipt in record.phases[-1].receipts
        ]
        rows.append((" ".join(words), record.virtual_time))
    return rows


def _buffered(buffer: int, **changes: Any) -> dict[str, Any]:
    return {"name": "buffered", "buffer": buffer, "selector": "round_robin", **changes}


def test_at_one_instant_who_is_further_along_reports_first_and_staleness_is_counted_in_versions(tmp_path: Path) -> None:
    result = _run(tmp_path, "1 3 1 1", rounds=5, cohort={"size": 2}, schedule=_buffered(1))
    # 0 and 1 begin at 0; 2 at 1; 3 at 2. At 3 both 1 and 3 report, 1 worked for longer; then two slots are free.
    assert _told(result) == [("0", 1.0), ("2", 2.0), ("12", 3.0), ("31", 3.0), ("0", 4.0)]
    assert [phase.asked for phase in _trains(result)] == [
        ("c0000", "c0001"),
        ("c0002",),
        ("c0003",),
        (),
        ("c0000", "c0001"),
    ]


@pytest.mark.parametrize("schedule", [{}, {"deadline": 100.0}])
def test_h11_the_order_in_which_clients_arrive_changes_no_bit_of_the_result(
    tmp_path: Path, schedule: dict[str, Any]
) -> None:
    """Synchronous, with everybody counted: who is folded when follows from names."""
    runs = [_run(tmp_path, latencies, rounds=2, schedule=schedule) for latencies in ("1 2 3 4", "4 3 2 1", "3 1 4 2")]
    assert len({result.model_digest for result in runs}) == 1
    assert [result.rounds[-1].virtual_time for result in runs] == [8.0] * 3


def test_of_two_that_began_together_the_first_by_name_reports_first(tmp_path: Path) -> None:
    result = _run(tmp_path, "2 2 2", rounds=3, cohort={"size": 3}, schedule=_buffered(1))
    assert _told(result) == [("0", 2.0), ("11", 2.0), ("22", 2.0)]


def test_who_reports_is_heard_before_who_fails_at_the_same_instant(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("client,latency,failure\nc0000,2,1\nc0001,2,0\n")
    changes: dict[str, Any] = {"rounds": 2, "cohort": {"size": 2}, "schedule": _buffered(1)}
    data = {"name": "digits", "partition": {"name": "iid", "clients": 2}}
    run = prepared(tmp_path, data=data, test={"ratio": 0}, time={"trace": "trace.csv"}, **changes)
    assert _told(simulate(run, EAGER))[0] == ("1", 2.0)


def test_a_buffer_is_closed_over_distinct_clients_and_costs_are_counted(tmp_path: Path) -> None:
    result = _run(tmp_path, "1 2 4 8", rounds=3, cohort={"size": 2}, schedule=_buffered(2))
    # 0, 1 begin at 0; 2 at 1 in the place of 0; at 2 the buffer has 0 and 1. Then 3 begins, and 2 reports at 5.
    assert _told(result)[0] == ("0 1", 2.0)
    assert _trains(result)[0].client_seconds == 3.0
    assert _trains(result)[0].virtual_seconds == 2.0
    assert _trains(result)[0].asked == ("c0000", "c0001", "c0002")
    one = _trains(result)[0].bytes_down / 3
    assert [phase.bytes_down / one for phase in _trains(result)] == [len(phase.asked) for phase in _trains(result)]
    assert all(receipt.size for phase in _trains(result) for receipt in phase.receipts)


def test_over_the_maximum_staleness_an_update_is_dropped_and_named(tmp_path: Path) -> None:
    schedule = _buffered(1, staleness={"maximum": 1})
    result = _run(tmp_path, "1 3.5 1 1", rounds=5, cohort={"size": 2}, schedule=schedule)
    heard = [receipt for phase in _trains(result) for receipt in phase.receipts]
    (stale,) = [receipt for receipt in heard if receipt.failure]
    assert (stale.client, stale.staleness) == ("c0001", 3)
    assert stale.failure.startswith("stale: ")
    assert stale.size > 0
    assert all(receipt.staleness <= 1 for receipt in heard if not receipt.failure)
    assert len([receipt for receipt in heard if not receipt.failure]) == 5


def test_staleness_shrinks_an_update(tmp_path: Path) -> None:
    def ends(weight: dict[str, Any]) -> str:
        schedule = _buffered(1, staleness=weight)
        return _run(tmp_path, "1 3 1 1", rounds=3, cohort={"size": 2}, schedule=schedule).model_digest

    assert ends({"a": 0.0}) == ends({"name": "constant"}) == ends({"name": "hinge", "b": 2, "a": 9.0})
    assert len({ends({"a": 0.0}), ends({"a": 0.5}), ends({"name": "hinge", "b": 1, "a": 9.0})}) == 3


def test_timed_phases_close_at_their_times_over_whoever_reported(tmp_path: Path) -> None:
    schedule = {"name": "timed", "every": 3.0, "selector": "round_robin"}
    result = _run(tmp_path, "1 4 2 20", rounds=3, cohort={"size": 2}, schedule=schedule)
    # 0 and 1 begin at 0, 2 at 1, 3 at 3, 0 at 4, 2 at 5, 0 at 7; 3 is out to the end.
    assert _told(result) == [("0 2", 3.0), ("0 11", 6.0), ("0 21", 9.0)]


def test_cyclic_passes_the_model_from_client_to_client_and_skips_who_is_late(tmp_path: Path) -> None:
    schedule = {"name": "cyclic", "deadline": 5.0}
    result = _run(tmp_path, "1 9 2", rounds=4, cohort={"size": 1}, schedule=schedule)
    assert _told(result) == [("0", 1.0), ("1! 2", 8.0), ("0", 9.0), ("1! 2", 16.0)]
    late = _trains(result)[1].receipts[0]
    assert late.failure.startswith("late: ")
    assert _trains(result)[1].client_seconds == 9.0


def test_cyclic_takes_each_client_s_model_as_it_is(tmp_path: Path) -> None:
    one = _run(tmp_path, "1", rounds=3, cohort={"size": 1}, schedule={"name": "cyclic"})
    assert one.model_digest == _run(tmp_path, "1", rounds=3, cohort={"size": 1}).model_digest


def test_over_selection_closes_at_the_size_and_counts_the_late_ones_as_late(tmp_path: Path) -> None:
    result = _run(tmp_path, "5 1 4 2 3 9", rounds=1, cohort={"size": 4, "over_selection": 1.5})
    assert _told(result) == [("0! 1 2 3 4 5!", 4.0)]
    (record,) = _trains(result)
    assert {r.client for r in record.receipts if r.failure.startswith("late: ")} == {"c0000", "c0005"}
    assert record.client_seconds == 4 + 1 + 4 + 2 + 3 + 4


def _failing(folder: Path, latencies: str, client: str) -> str:
    """A plan that fails for one client, which it knows by the number of its examples."""
    clients = len(latencies.split())
    data = {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.5, "clients": clients}}
    size = len(client_data(prepared(folder, data=data, test={"ratio": 0}))[client].train)
    return DIGITS.replace(
        "    return nn.functional.cross_entropy",
        f"    if len(target) == {size}:\n        raise ValueError('no')\n    return nn.functional.cross_entropy",
    )


def test_where_the_plan_fails_for_one_who_would_count_the_next_one_counts(tmp_path: Path) -> None:
    latencies = "5 1 4 2 3 9"
    data = {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.5, "clients": 6}}
    cohort = {"size": 4, "over_selection": 1.5}
    result = _run(tmp_path, latencies, plan=_failing(tmp_path, latencies, "c0003"), rounds=1, cohort=cohort, data=data)
    assert _told(result) == [("0 1 2 3! 4 5!", 5.0)]
    failures = {receipt.client: receipt.failure.split(":")[0] for receipt in _trains(result)[0].receipts}
    assert {client: failure for client, failure in failures.items() if failure} == {
        "c0003": "plan_failed",
        "c0005": "late",
    }


def test_a_plan_that_fails_for_one_in_flight_frees_its_slot(tmp_path: Path) -> None:
    latencies = "1 1 1 1"
    data = {"name": "digits", "partition": {"name": "dirichlet", "alpha": 0.5, "clients": 4}}
    plan = _failing(tmp_path, latencies, "c0001")
    result = _run(tmp_path, latencies, plan=plan, rounds=2, cohort={"size": 2}, data=data, schedule=_buffered(2))
    assert _told(result)[0] == ("0 1! 2", 2.0)
    assert _trains(result)[0].receipts[1].failure.startswith("plan_failed")


def test_where_everybody_drops_out_a_run_fails_and_says_what_was_said(tmp_path: Path) -> None:
    for schedule in (_buffered(2), {"name": "timed", "every": 2.0}, {"name": "cyclic"}, {"name": "synchronous"}):
        with pytest.raises(QuorumError) as refusal:
            _run(tmp_path, "1 2 3", rounds=1, cohort={"size": 2}, schedule=schedule, time={"dropout": 1.0})
        assert refusal.value.code == "too_few_contributions"
        assert "dropped_out: it" in str(refusal.value)


def test_what_the_population_can_never_come_to_is_refused_before_round_1(tmp_path: Path) -> None:
    with pytest.raises(QuorumError) as few:
        _run(tmp_path, "1 1 1", rounds=1, cohort={"size": 4}, schedule=_buffered(2))
    assert few.value.code == "population_too_small"
    with pytest.raises(ConfigError) as large:
        _run(tmp_path, "1 1 1", rounds=1, cohort={"size": 2}, schedule=_buffered(4))
    assert large.value.code == "buffer_too_large"


def test_at_the_deadline_a_phase_is_closed_over_who_reported(tmp_path: Path) -> None:
    result = _run(tmp_path, "1 2 3 50", rounds=2, cohort={"size": 4}, schedule={"deadline": 10.0})
    assert _told(result) == [("0 1 2 3!", 10.0), ("0 1 2 3!", 20.0)]


def test_below_the_minimum_a_phase_is_abandoned_three_times_and_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(QuorumError) as refusal:
        _run(tmp_path, "1 20 30 50", rounds=2, cohort={"size": 4, "minimum": 2}, schedule={"deadline": 10.0})
    assert refusal.value.code == "too_few_contributions"
    assert "1 of 4 contributed; 2 are needed" in str(refusal.value)


def test_an_attempt_that_was_abandoned_costs_its_time(tmp_path: Path) -> None:
    result = _run(
        tmp_path, "1 1 40 40", rounds=1, seed=3, cohort={"size": 2, "minimum": 1}, schedule={"deadline": 10.0}
    )
    outcomes = [phase.outcome for phase in result.rounds[0].phases]
    assert outcomes[-1] == "closed"
    assert outcomes[:-1] == ["abandoned"]
    assert result.rounds[0].virtual_time == sum(phase.virtual_seconds for phase in result.rounds[0].phases)
    assert result.rounds[0].virtual_seconds == result.rounds[0].virtual_time


def test_the_clock_does_not_wait_for_tests_and_their_costs_stand_beside(tmp_path: Path) -> None:
    result = _run(tmp_path, "1 2", rounds=2, cohort={"size": 2}, test={"ratio": 0.2})
    assert [record.virtual_time for record in result.rounds] == [2.0, 4.0]
    assert [record.virtual_seconds for record in result.rounds] == [2.0, 2.0]
    test = result.rounds[0].phases[1]
    assert (test.phase, test.virtual_seconds, test.client_seconds) == ("test", 2.0, 3.0)
    assert test.bytes_down > 0


def test_without_a_word_of_time_every_ask_takes_a_second(tmp_path: Path) -> None:
    result = simulate(prepared(tmp_path, rounds=3), EAGER)
    assert [record.virtual_time for record in result.rounds] == [1.0, 2.0, 3.0]
    assert {phase.client_seconds for phase in _trains(result)} == {4.0}


class Once:
    """Keeps every snapshot, as it would come back from a disk; ``begin`` is where the run goes on."""

    def __init__(self, begin: Snapshot | None = None) -> None:
        self.begin = begin
        self.snapshots: dict[int, Snapshot] = {}

    def chosen(self, choice: Choice) -> None:
        """Nothing to keep."""

    def abandoned(self, *told: Any) -> None:
        """Nothing to keep."""

    def between(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        taken = snapshot()
        port = State(taken.port.tensors, json.loads(json.dumps(dict(taken.port.data))))
        self.snapshots[rounds] = replace(taken, port=port)

    def left(self, rounds: int, snapshot: Callable[[], Snapshot]) -> None:
        """Nothing to keep."""


def _timeless(record: RoundRecord) -> RoundRecord:
    phases = tuple(
        replace(phase, receipts=tuple(replace(receipt, seconds=0.0) for receipt in phase.receipts))
        for phase in record.phases
    )
    return replace(record, seconds=0.0, phases=phases)


@pytest.mark.parametrize(
    "schedule",
    [{"deadline": 4.0}, _buffered(2), {"name": "timed", "every": 2.5}, {"name": "cyclic"}],
    ids=["synchronous", "buffered", "timed", "cyclic"],
)
def test_a_run_that_goes_on_from_between_two_rounds_gives_the_bits_of_one_that_was_not_cut(
    schedule: dict[str, Any], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"rounds": 5, "cohort": {"size": 3}, "schedule": schedule}
    whole = Once()
    uncut = _run(tmp_path, "1 2.5 3 7 1", keeper=whole, **changes)
    for cut in (1, 3):
        resumed = _run(tmp_path, "1 2.5 3 7 1", keeper=Once(whole.snapshots[cut]), **changes)
        assert resumed.model_digest == uncut.model_digest
        assert [*map(_timeless, resumed.rounds)] == [*map(_timeless, uncut.rounds)][cut:]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    latencies=st.lists(st.integers(0, 4), min_size=3, max_size=8),
    concurrency=st.integers(1, 3),
    kind=st.sampled_from(["buffered", "timed", "cyclic"]),
    selector=st.sampled_from(["random", "round_robin"]),
    chance=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_at_most_so_many_are_out_each_once_and_staleness_is_the_rounds_since_an_ask(
    latencies: list[int], concurrency: int, kind: str, selector: str, chance: float, seed: int, tmp_path: Path
) -> None:
    options = {"buffered": {"buffer": 2}, "timed": {"every": 2.5}, "cyclic": {}}[kind]
    schedule = {"name": kind, "selector": selector, **options}
    time = {"trace": "trace.csv", "dropout": chance}
    changes: dict[str, Any] = {"rounds": 6, "cohort": {"size": concurrency}, "schedule": schedule, "time": time}
    try:
        result = _run(tmp_path, " ".join(map(str, latencies)), seed=seed, **changes)
    except QuorumError as error:
        assert chance > 0 and error.code == "too_few_contributions"
        return
    out, clock = dict[str, int](), 0.0
    for record in result.rounds:
        assert record.virtual_time >= clock
        clock = record.virtual_time
        for phase in record.phases:
            assert not set(phase.asked) & set(out)
            out |= dict.fromkeys(phase.asked, record.round)
            heard = [receipt.client for receipt in phase.receipts]
            assert len(set(heard)) == len(heard)
            for receipt in phase.receipts:
                assert receipt.staleness == record.round - out.pop(receipt.client)
        assert len(out) <= (0 if kind == "cyclic" else concurrency)
