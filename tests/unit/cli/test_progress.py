"""Progress: plain lines off a terminal, a table on one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from foedus.cli.progress import LiveProgress, progress
from foedus.domain.round import PhaseRecord, Receipt, RoundRecord


def record(number: int, seconds: float = 2.0) -> RoundRecord:
    receipts = (Receipt("a", {"examples": 3.0}, {"loss": 0.5}), Receipt("b", {}, {}, failure="no_examples"))
    phase = PhaseRecord("train", ("a", "b"), receipts, {"loss": 0.5}, bytes_down=2000, bytes_up=1500)
    test = PhaseRecord("test", ("a",), (), {"loss": 0.25, "accuracy": 0.75})
    return RoundRecord(number, (phase, test), "0" * 64, seconds)


METRICS = "test/accuracy 0.7500  test/loss 0.2500  train/loss 0.5000"
"""What is to be improved comes first."""


def test_off_a_terminal_a_round_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(5) as observer:
        observer.round(record(1, 10.0))
        observer.round(record(2))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"round 1/5  clients 1/2  {METRICS}  down 2.0 kB  up 1.5 kB  left 40 s",
        f"round 2/5  clients 1/2  {METRICS}  down 2.0 kB  up 1.5 kB  left 6 s",
    ]


class Still:
    """A display that needs no refreshing."""

    def refresh(self) -> None:
        pass


def test_the_table_has_the_last_rounds_and_the_time_left() -> None:
    observer = LiveProgress(100)
    observer.live = Still()
    for number in range(1, 31):
        observer.round(record(number))
    console = Console(file=io.StringIO(), width=100)
    console.print(observer.table())
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["round", "clients", "test/accuracy", "test/loss", "train/loss", "down", "up"]
    assert [line.split()[0] for line in lines[1:-1]] == [f"{number}/100" for number in range(11, 31)]
    assert lines[-1].strip() == "time left 2 min"


def test_a_coordinator_s_metric_names_do_nothing_to_the_terminal() -> None:
    observer = LiveProgress(2)
    observer.live = Still()
    receipt = Receipt("a", {"examples": 1.0}, {"[/red]\x1b[2J": 0.5})
    phase = PhaseRecord("train", ("a",), (receipt,), {"[/red]\x1b[2J": 0.5})
    observer.round(RoundRecord(1, (phase,), "0" * 64, 2.0))
    console = Console(file=io.StringIO(), width=100)
    console.print(observer.table())
    assert "train/[/red]?[2J" in console.file.getvalue()
