"""rounds.jsonl, read back."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from foedus.domain.errors import IntegrityError
from foedus.domain.round import PhaseRecord, Receipt, RoundRecord
from foedus.domain.run import parse_spec
from foedus.domain.table import read_toml
from foedus.engine.folder import RunFolder
from foedus.engine.records import read_records


def record(number: int) -> RoundRecord:
    receipts = (
        Receipt("a", {"examples": 3.0}, {"loss": 0.1 + 0.2}, seconds=1e-9, size=7),
        Receipt("b", {}, {}, failure="x: é"),
    )
    phase = PhaseRecord("train", ("a", "b"), receipts, {"loss": 0.1 + 0.2}, bytes_down=20, bytes_up=10)
    return RoundRecord(number, (phase, replace(phase, phase="test", outcome="untested")), "0" * 64, 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, parse_spec(read_toml(Path("examples/digits/run.toml"))))


def test_records_come_back_as_they_were(folder: RunFolder) -> None:
    records = [record(number) for number in (1, 2, 3)]
    for each in records:
        folder.round(each)
    assert list(read_records(folder.path / "rounds.jsonl")) == records
    position = folder.position(2)
    assert position is not None
    assert list(read_records(folder.path / "rounds.jsonl", position.size)) == records[:2]
    assert folder.position(1) is None


def test_what_is_not_finite_comes_back_as_nan(folder: RunFolder) -> None:
    bad = replace(record(1).phases[0], metrics={"loss": math.inf})
    folder.round(replace(record(1), phases=(bad,)))
    (found,) = read_records(folder.path / "rounds.jsonl")
    assert math.isnan(found.phases[0].metrics["loss"])
    assert asdict(found.phases[0].receipts[0]) == asdict(bad.receipts[0])


def test_a_torn_last_line_is_left_out_and_a_bad_one_is_refused(folder: RunFolder) -> None:
    folder.round(record(1))
    path = folder.path / "rounds.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-1])
    assert len(list(read_records(path))) == 1
    for bad in (b"[]\n", b"{}\n", b"\xff\n", b"{\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(whole + bad)
        with pytest.raises(IntegrityError) as refused:
            list(read_records(path))
        assert refused.value.code == "rounds_malformed"
