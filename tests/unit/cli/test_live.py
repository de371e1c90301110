"""Live rounds become the records that a simulation makes, and a run that did not complete is an error."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from foedus.cli.live import FACTS, close_live, record_of
from foedus.cli.run import describe
from foedus.cli.run_submit import submission_of
from foedus.domain.errors import ConfigError, ConflictError, RunFailedError
from foedus.domain.run import parse_spec
from foedus.domain.table import read_toml
from foedus.engine.choice import Engine
from foedus.engine.folder import RunFolder
from foedus.engine.prepare import prepare
from foedus.engine.resume import take_up
from foedus.engine.simulate import simulate
from foedus.wire.messages import PhaseView, RoundView, RunView


def test_a_record_survives_the_way_over_the_api(digits: Path) -> None:
    (record,) = simulate(prepare(digits / "run.toml", {"rounds": "1"}), Engine("eager", "inline")).rounds
    live = replace(record, central={}, virtual_time=0.0, virtual_seconds=0.0)
    table = {**asdict(live), "metrics": record.metrics}
    table = {name: table[name] for name in RoundView.model_fields}
    table["phases"] = [{name: phase[name] for name in PhaseView.model_fields} for phase in table["phases"]]
    for phase in table["phases"]:
        for receipt in phase["receipts"]:
            receipt.pop("state")
    told = RoundView.model_validate_json(RoundView.model_validate(table).model_dump_json())
    simulated = {"virtual_seconds": 0.0, "client_seconds": 0.0}
    phases = tuple(replace(phase, metrics=dict(phase.metrics), **simulated) for phase in record.phases)
    assert record_of(told) == replace(live, phases=phases)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_run_that_did_not_complete_is_an_error_with_a_folder(digits: Path, tmp_path: Path, status: str) -> None:
    spec = parse_spec(read_toml(digits / "run.toml"))
    view = RunView(
        id="run_1",
        name="digits",
        status=status,
        reason="too few",
        round=0,
        rounds=20,
        plan="0" * 64,
        strategy="fedavg",
        created_at=datetime.now(UTC),
    )
    with pytest.raises(RunFailedError) as ended:
        folder = RunFolder(tmp_path, spec)
        folder.environment({**FACTS, "id": view.id})
        close_live(folder, spec, view, {})
    assert (ended.value.code, ended.value.why) == (f"run_{status}", "too few")
    assert f'"status": "{status}"' in (tmp_path / "summary.json").read_text()
    with pytest.raises(ConflictError) as refused:
        take_up(tmp_path, {}, Engine())
    assert refused.value.code == "run_not_simulated"
    assert f"{status}: too few" in describe(view)
    assert describe(view.model_copy(update={"reason": status})).count(status) == 1


def test_what_only_this_machine_has_is_not_sent(digits: Path) -> None:
    prepared = prepare(digits / "run.toml", {"track.tensorboard": "board"})
    assert prepared.spec.track.tensorboard == "board"
    assert submission_of(prepared).spec == prepare(digits / "run.toml").spec


def test_a_live_run_cannot_stop_by_what_only_a_simulation_measures(digits: Path) -> None:
    stop = {"stop.metric": "central/accuracy", "stop.target": "0.9", "test.central_every": "1"}
    with pytest.raises(ConfigError) as refused:
        submission_of(prepare(digits / "run.toml", stop))
    assert refused.value.code == "stop_refused"
    assert "test/accuracy" in refused.value.fix
