"""``--profile``: every second of a run belongs to one stage, and the bits are those of a run without it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from foedus.domain.checkpoint import CheckpointTable
from foedus.engine.choice import Engine
from foedus.engine.folder import RunFolder
from foedus.engine.keeping import Keeping
from foedus.engine.profile import STAGES, Profile
from foedus.engine.simulate import Tools, simulate
from tests.plans import DIGITS, prepared


def test_stages_do_not_overlap_and_leave_nothing_out() -> None:
    began = time.perf_counter()
    profile = Profile()
    with profile.stage("train"), profile.stage("data"):
        time.sleep(0.02)
    profile.between("other")
    assert profile.timed("fold", lambda a, b: a + b, after="digest")(1, b=2) == 3
    with pytest.raises(ValueError), profile.stage("step"):
        raise ValueError
    profile.summary()
    assert profile.seconds["data"] >= 0.02 > profile.seconds["train"]
    assert sum(profile.seconds.values()) == pytest.approx(time.perf_counter() - began, abs=0.01)


@pytest.mark.parametrize(
    "engine", [Engine("eager", "inline"), Engine("eager", "workers", 2), Engine("graph", "inline")]
)
def test_a_run_s_time_is_told_by_stage_and_its_bits_are_the_same(tmp_path: Path, engine: Engine) -> None:
    plan = DIGITS.replace(
        '    return columns["image"]', '    import time\n    time.sleep(0.01)\n    return columns["image"]'
    )
    ready = prepared(tmp_path, plan, rounds=3, test={"central_every": 1})
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run", ready.spec, ready.bundle)
    keeping, profile = Keeping(folder, CheckpointTable(every=1)), Profile()
    began = time.perf_counter()
    result = simulate(ready, engine, [folder], keeping, Tools(profile=profile))
    took = time.perf_counter() - began
    assert result.model_digest == simulate(ready, engine).model_digest
    assert sum(profile.seconds.values()) == pytest.approx(took, rel=0.2, abs=0.2)
    inline = engine.executor == "inline"
    spent = {name for name, seconds in profile.seconds.items() if seconds > 0}
    assert spent == set(STAGES) - ({"wait"} if inline else {"train"})
    assert profile.seconds["data"] >= 0.04
    summary = profile.summary()
    assert summary["rounds"] == 3
    assert ("busy" in summary) != inline
