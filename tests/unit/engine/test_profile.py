"""``--profile``: every second of a run belongs to one stage, and the bits are those of a run without it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from foedus.domain.checkpoint import CheckpointTable
from foedus.engine.choice import Engine
from foedus.engine.folder import RunFolder
from foedus.engine.keeping import Keeping
from foedus.engine.profile import STAGES, Profile
from foedus.engine.simulate import Tools, simulate
from tests.plans import DIGITS, prepared


def test_stages_do_not_overlap_and_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def last(seconds: float) -> float:
        now[0] += seconds
        return seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    profile = Profile()
    last(1)
    with profile.stage("train"):
        last(2)
        with profile.stage("data"):
            last(4)
        last(8)
    profile.between("other")
    last(16)
    assert profile.timed("fold", last, after="digest")(32) == 32
    last(64)
    with pytest.raises(ValueError), profile.stage("step"):
        last(128)
        raise ValueError
    last(256)
    profile.summary()
    told = {"start": 1, "train": 10, "data": 4, "other": 16, "fold": 32, "digest": 320, "step": 128}
    assert {name: seconds for name, seconds in profile.seconds.items() if seconds} == told


@pytest.mark.parametrize(
    "engine", [Engine("eager", "inline"), Engine("eager", "workers", 2), Engine("graph", "inline")]
)
def test_a_run_s_time_is_told_by_stage_and_its_bits_are_the_same(tmp_path: Path, engine: Engine) -> None:
    plan = DIGITS.replace(
        '    return columns["image"]', '    import time\n    time.sleep(0.01)\n    return columns["image"]'
    )
    ready = prepared(tmp_path, plan, rounds=3, test={"central_every": 1})
    for attempt in range(3):  # a busy machine may stop this process where no clock runs
        (tmp_path / f"run{attempt}").mkdir()
        folder = RunFolder(tmp_path / f"run{attempt}", ready.spec, ready.bundle)
        keeping, profile = Keeping(folder, CheckpointTable(every=1)), Profile()
        began = time.perf_counter()
        result = simulate(ready, engine, [folder], keeping, Tools(profile=profile))
        took = time.perf_counter() - began
        if sum(profile.seconds.values()) == pytest.approx(took, rel=0.2, abs=0.2):
            break
    else:
        pytest.fail(f"{took} s, of which {profile.seconds} is told")
    unmeasured = simulate(ready, replace(engine, recipe=result.choice.recipe))
    assert result.model_digest == unmeasured.model_digest
    inline = engine.executor == "inline"
    spent = {name for name, seconds in profile.seconds.items() if seconds > 0}
    assert spent == set(STAGES) - ({"wait"} if inline else {"train"})
    assert profile.seconds["data"] >= 0.04
    summary = profile.summary()
    assert summary["rounds"] == 3
    assert ("busy" in summary) != inline
