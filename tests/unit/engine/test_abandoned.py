"""An attempt that is given up stands in the round's record and in the log, and counts for nothing."""

from __future__ import annotations

import json
from pathlib import Path

from foedus.domain.checkpoint import CheckpointTable
from foedus.engine.choice import Engine
from foedus.engine.folder import RunFolder
from foedus.engine.keeping import Keeping
from foedus.engine.records import read_records
from foedus.engine.simulate import simulate
from tests.plans import DIGITS, prepared

ONCE = DIGITS.replace(
    "    return nn.functional.cross_entropy",
    "    calls.append(0)\n    if len(calls) < 4:\n        raise RuntimeError('not yet')\n"
    "    return nn.functional.cross_entropy",
).replace("def model()", "calls = []\n\n\ndef model()")


def test_an_abandoned_attempt_is_recorded(tmp_path: Path) -> None:
    ready = prepared(tmp_path, ONCE, rounds=2, test={"ratio": 0.0}, cohort={"size": 4, "minimum": 2})
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run", ready.spec, ready.bundle)
    simulate(ready, Engine("eager", "inline"), [folder], Keeping(folder, CheckpointTable()))
    first, second = read_records(folder.path / "rounds.jsonl")
    assert [phase.outcome for phase in first.phases] == ["abandoned", "closed"]
    assert [phase.outcome for phase in second.phases] == ["closed"]
    given_up = first.phases[0]
    assert given_up.metrics == {}
    assert given_up.bytes_down == first.phases[1].bytes_down
    failed = [receipt.client for receipt in given_up.receipts if receipt.failure]
    assert failed == ["c0000", "c0001", "c0002"]
    assert (folder.history.rows[0].contributed, folder.history.rows[0].failed) == (4, 3)
    log = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    (told,) = [line for line in log if line["event"] == "abandoned"]
    assert (told["round"], told["phase"], told["attempt"]) == (1, "train", 0)
    assert list(told["failures"]) == failed
    assert "1 of 4 contributed" in told["reason"]
