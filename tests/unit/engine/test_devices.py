"""Devices by seed and by trace: the formula of an ask's time, chances, availability, and traces that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.domain.errors import DataError, QuorumError
from foedus.domain.timing import TimeTable
from foedus.engine import trace
from foedus.engine.choice import Engine
from foedus.engine.devices import MICRO, Devices, Load, Pace
from foedus.engine.simulate import simulate
from foedus.engine.trace import COLUMNS, read_trace
from tests.plans import prepared

NAMES = tuple(f"c{n:04}" for n in range(200))
LOAD = Load(100, 5000, 3000)
PLACE = (1, "train")


def _devices(seed: int = 1, **table: Any) -> Devices:
    return Devices(TimeTable.model_validate(table), {}, seed)


def test_an_ask_takes_latency_and_bytes_down_and_examples_and_bytes_up() -> None:
    devices = _devices(speed=50.0, network={"down": 1000.0, "up": 2000.0, "latency": 0.25})
    assert devices.pace(PLACE, "c0000", LOAD) == Pace(round((0.25 + 5 + 2 + 1.5) * MICRO))


def test_what_is_not_said_takes_no_time_and_where_nothing_is_said_an_ask_takes_a_second() -> None:
    assert _devices(network={"up": 1000.0}).pace(PLACE, "c0000", LOAD) == Pace(3 * MICRO)
    assert _devices().pace(PLACE, "c0000", LOAD) == Devices(None, {}, 1).pace(PLACE, "c0000", LOAD) == Pace(MICRO)


def test_devices_are_even_where_nothing_tells_clients_apart() -> None:
    assert Devices(None, {}, 1).even
    assert _devices(network={"up": 1000.0, "latency": 1}).even
    assert not _devices(speed=5.0).even
    assert not _devices(dropout=0.1).even
    assert not _devices(network={"latency": {"name": "exponential", "mean": 1.0}}).even


@pytest.mark.parametrize(
    ("distribution", "mean"),
    [
        ({"name": "uniform", "low": 10.0, "high": 30.0}, 20.0),
        ({"name": "lognormal", "median": 20.0, "sigma": 0.5}, 20.0 * 2.718281828 ** (0.5**2 / 2)),
        ({"name": "exponential", "mean": 20.0}, 20.0),
    ],
    ids=["uniform", "lognormal", "exponential"],
)
def test_distributions_have_their_means_and_are_drawn_by_seed_and_client(
    distribution: dict[str, Any], mean: float
) -> None:
    names = [f"c{n}" for n in range(4000)]
    drawn = [_devices(speed=distribution).value(name, "speed") or 0.0 for name in names]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.05)
    assert len(set(drawn)) == len(drawn)
    assert drawn[:9] == [_devices(speed=distribution).value(name, "speed") for name in names[:9]]
    assert drawn[:9] != [_devices(2, speed=distribution).value(name, "speed") for name in names[:9]]


@given(st.floats(1e-300, 1e15), st.floats(0, 10), st.integers(0, 2**40), st.text(max_size=5))
def test_no_ask_takes_forever_or_less_than_nothing(median: float, sigma: float, examples: int, client: str) -> None:
    devices = _devices(speed={"name": "lognormal", "median": median, "sigma": sigma})
    assert 0 <= devices.pace(PLACE, client, Load(examples, 0, 0)).micros <= 10 * 366 * 86400 * MICRO


def test_who_drops_out_does_so_by_seed_round_and_purpose_and_before_its_work_is_done() -> None:
    def gone(seed: int, place: tuple[int, str]) -> dict[str, int]:
        paces = {name: _devices(seed, dropout=0.25).pace(place, name, LOAD) for name in NAMES}
        assert all(pace.failure.startswith("dropped_out: ") for pace in paces.values() if pace.failure)
        return {name: pace.micros for name, pace in paces.items() if pace.failure}

    first = gone(1, PLACE)
    assert 30 <= len(first) <= 70
    assert all(0 <= micros < MICRO for micros in first.values())
    assert len(set(first.values())) > 20
    assert first == gone(1, PLACE)
    others = [gone(2, PLACE), gone(1, (2, "train")), gone(1, (1, "test")), gone(1, (1, "train 1"))]
    assert all(set(first) != set(other) for other in others)


def test_a_failure_that_is_injected_comes_at_the_end_of_the_work() -> None:
    paces = [_devices(failure=0.5).pace(PLACE, name, LOAD) for name in NAMES]
    failed = [pace for pace in paces if pace.failure]
    assert 70 <= len(failed) <= 130
    assert {(pace.micros, pace.failure.split(":")[0]) for pace in failed} == {(MICRO, "injected_failure")}


def test_who_is_there_changes_by_round_and_stays_within_the_population() -> None:
    devices = _devices(availability=0.5)
    first, waited = devices.there(NAMES, 1, 10)
    assert waited == 0.0
    assert 70 <= len(first) <= 130
    assert list(first) == sorted(set(first) & set(NAMES))
    assert first[:3] == tuple(first)[:3]
    assert list(devices.there(NAMES, 1, 10)[0]) == list(first)
    assert list(devices.there(NAMES, 2, 10)[0]) != list(first)


def test_a_run_waits_until_enough_are_there_and_gives_up_where_they_never_are() -> None:
    _, waited = _devices(availability=0.5).there(NAMES[:4], 1, 4)
    assert waited > 0
    assert waited % 60 == 0
    with pytest.raises(QuorumError) as refusal:
        _devices(availability=0.001).there(NAMES[:10], 1, 10)
    assert refusal.value.code == "population_away"


def test_everybody_is_there_where_nothing_else_is_said() -> None:
    assert Devices(None, {}, 1).there(NAMES, 1, 10) == (NAMES, 0.0)
    rows = dict.fromkeys(NAMES, (5.0, *[None] * (len(COLUMNS) - 1)))
    assert Devices(None, rows, 1).there(NAMES, 1, 10) == (NAMES, 0.0)


def test_a_run_asks_those_who_are_there_alone_and_the_clock_tells_of_the_waiting(tmp_path: Path) -> None:
    table: dict[str, Any] = {"availability": 0.5}
    run = prepared(tmp_path, rounds=6, cohort={"size": 3}, time=table, test={"ratio": 0})
    result = simulate(run, Engine("eager", "inline"))
    devices = Devices(run.spec.time, {}, run.spec.seed)
    clock = 0.0
    for record in result.rounds:
        there, waited = devices.there(NAMES[:4], record.round, 3)
        assert set(record.phases[0].asked) <= set(there)
        clock += waited + 1.0
        assert record.virtual_time == clock


def test_speed_counts_examples_and_epochs(tmp_path: Path) -> None:
    strategy = {"name": "fedavg", "local": {"lr": 0.1, "epochs": 3}}
    run = prepared(tmp_path, rounds=1, strategy=strategy, time={"speed": 10.0})
    (record,) = simulate(run, Engine("eager", "inline")).rounds
    train, test = record.phases
    examples = {receipt.client: receipt.weights["examples"] for receipt in train.receipts}
    assert train.virtual_seconds == pytest.approx(3 * max(examples.values()) / 10)
    assert train.client_seconds == pytest.approx(3 * sum(examples.values()) / 10)
    assert test.client_seconds == pytest.approx(sum(r.weights["examples"] for r in test.receipts) / 10)


def _read(folder: Path, text: str, names: tuple[str, ...] = ("a", "b")) -> trace.Trace:
    (folder / "trace.csv").write_text(text)
    return read_trace(folder / "trace.csv", names)


def test_a_trace_goes_before_the_distributions_and_leaves_what_it_does_not_say_to_them(tmp_path: Path) -> None:
    rows = _read(tmp_path, "client, latency,speed\na,0.5,\n\nb,,20\nc,1,1\n")
    devices = Devices(TimeTable.model_validate({"speed": 10, "network": {"latency": 2}}), rows, 1)
    assert [devices.pace(PLACE, name, Load(100, 0, 0)).micros / MICRO for name in "ab"] == [10.5, 7.0]
    assert not devices.even


BAD_TRACES = {
    "a negative duration": ("client,latency\na,-1\nb,1\n", "Row 2 has '-1' for latency"),
    "no speed at all": ("client,speed\na,0\nb,1\n", "has to be a number over 0"),
    "NaN": ("client,latency\na,nan\nb,1\n", "'nan'"),
    "infinity": ("client,down\na,inf\nb,1\n", "'inf'"),
    "text": ("client,up\na,1\nb,fast\n", "Row 3 has 'fast' for up"),
    "a chance over one": ("client,dropout\na,0.5\nb,1.5\n", "0 to 1"),
    "an unknown column": ("client,sped\na,1\nb,1\n", "Did you mean `speed`?"),
    "no column of clients": ("name,speed\na,1\n", "`name`"),
    "no client column": ("speed\n1\n", "`client`"),
    "a column twice": ("client,speed,speed\na,1,1\n", "no column twice"),
    "a client twice": ("client,speed\na,1\na,1\n", "second one of the client a"),
    "a client without a row": ("client,speed\na,1\n", "no row for the client b"),
    "a short row": ("client,speed\na\nb,1\n", "Row 2 has 1 cells"),
    "nothing": ("", "`client`"),
}


@pytest.mark.parametrize(("text", "said"), BAD_TRACES.values(), ids=BAD_TRACES.keys())
def test_a_bad_trace_is_refused_with_its_row_and_a_fix(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        _read(tmp_path, text)
    assert refusal.value.code == "trace_refused"
    assert said in str(refusal.value)
    assert "Correct that" in str(refusal.value)


def test_a_trace_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"\xff\xfe\x00", b"client,speed\na,\x00\xff\n", None):
        (tmp_path / "trace.csv").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "trace.csv").write_bytes(content)
        with pytest.raises(DataError) as refusal:
            read_trace(tmp_path / "trace.csv", ("a",))
        assert refusal.value.code == "trace_unreadable"
    monkeypatch.setattr(trace, "LIMIT", 10)
    with pytest.raises(DataError, match="15 bytes, and 10 are allowed"):
        _read(tmp_path, "client,speed\na,")


def test_a_bad_trace_is_refused_before_round_1(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("client,latency\nc0000,-1\n")
    with pytest.raises(DataError) as refusal:
        simulate(prepared(tmp_path, time={"trace": "t.csv"}), Engine("eager", "inline"))
    assert refusal.value.code == "trace_refused"


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes(b"client," + b",".join(name.encode() for name in COLUMNS) + b"\n" + content)
    try:
        rows = read_trace(path, ())
    except DataError:
        return
    assert all(value is None or 0 <= value <= 1e15 for row in rows.values() for value in row)
