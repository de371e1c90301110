"""A run's folder: which one is chosen, and what is written into it."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foedus.domain.errors import ConflictError, PlanError, StorageError
from foedus.domain.plan import PlanBundle, read_bundle
from foedus.domain.round import PhaseRecord, Receipt, RoundRecord
from foedus.domain.run import RunSpec, parse_spec
from foedus.domain.table import read_toml
from foedus.engine.folder import FILES, RunFolder, choose_folder
from foedus.engine.report import Report

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def spec() -> RunSpec:
    return parse_spec(read_toml(Path("examples/digits/run.toml")))


def record(number: int) -> RoundRecord:
    receipts = (Receipt("a", {"examples": 3.0}, {"loss": float("nan")}), Receipt("b", {}, {}, failure="gone: away"))
    phase = PhaseRecord("train", ("a", "b"), receipts, {"loss": float("nan")}, bytes_down=20, bytes_up=10)
    return RoundRecord(number, (phase,), "0" * 64, 0.5)


def test_the_default_folder_is_named_by_run_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_folder(None, "digits", NOW) == Path("runs/digits-20260102T030405Z")
    assert choose_folder(None, "digits", NOW) == Path("runs/digits-20260102T030405Z-2")
    assert choose_folder(None, "../escape", NOW) == Path("runs/run-20260102T030405Z")


def test_a_given_folder_is_made(tmp_path: Path) -> None:
    assert choose_folder(tmp_path / "a" / "b", "digits", NOW) == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("name", ["run.toml", "notes.txt"])
def test_a_folder_that_is_not_a_run_s_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConflictError) as refused:
        choose_folder(tmp_path, "digits", NOW)
    assert refused.value.code == "folder_in_use"
    assert (tmp_path / name).read_text() == "precious"


def test_of_an_earlier_run_only_its_files_are_removed_and_by_force_alone(tmp_path: Path, spec: RunSpec) -> None:
    RunFolder(tmp_path, spec, PlanBundle({"plan.py": b""}, "plan.py")).finished({"w": torch.ones(2)})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError) as refused:
        choose_folder(tmp_path, "digits", NOW)
    assert refused.value.code == "run_exists"
    assert (tmp_path / "model.safetensors").exists()
    choose_folder(tmp_path, "digits", NOW, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_a_run_is_in_is_left_alone(tmp_path: Path, spec: RunSpec) -> None:
    folder = RunFolder(tmp_path, spec)
    for attempt in (lambda: choose_folder(tmp_path, "digits", NOW, force=True), lambda: RunFolder(tmp_path, spec)):
        with pytest.raises(ConflictError) as refused:
            attempt()
        assert refused.value.code == "run_in_progress"
    folder.end({"status": "completed"}, None)
    assert choose_folder(tmp_path, "digits", NOW, force=True) == tmp_path


@pytest.mark.parametrize("name", ["../plan.py", "/plan.py", ".plan.py", "a/../../plan.py", "a//b.py", "my plan.py", ""])
def test_a_plan_s_file_never_leaves_the_folder(tmp_path: Path, spec: RunSpec, name: str) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(PlanError) as refused:
        RunFolder(tmp_path / "run", spec, PlanBundle({name: b"x", "plan.py": b""}, "plan.py"))
    assert refused.value.code == "plan_malformed"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_plan_that_is_a_folder_is_kept_whole(tmp_path: Path, spec: RunSpec) -> None:
    bundle = PlanBundle(
        {"plan.py": b"from . import parts\n", "parts/net.py": b"\xff\x00", "parts/__init__.py": b""}, "plan.py"
    )
    RunFolder(tmp_path, spec, bundle)
    assert tomllib.loads((tmp_path / "run.toml").read_text())["plan"] == "plan"
    assert read_bundle(tmp_path / "plan") == bundle


def test_a_file_in_its_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as refused:
        choose_folder(tmp_path / "file", "digits", NOW)
    assert refused.value.code == "folder_unwritable"


def test_rounds_are_appended_as_they_come(tmp_path: Path, spec: RunSpec) -> None:
    folder = RunFolder(tmp_path, spec)
    for number in (1, 2):
        folder.round(record(number))
        lines = (tmp_path / "rounds.jsonl").read_text().splitlines()
        assert [json.loads(line)["round"] for line in lines] == list(range(1, number + 1))
    assert json.loads(lines[0])["train/loss"] is None
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in log] == ["started", "round", "round"]
    assert log[1]["failures"] == {"b": "gone: away"}


def test_run_toml_is_the_run_as_resolved_and_the_plan_is_beside_it(tmp_path: Path, spec: RunSpec) -> None:
    bundle = read_bundle(Path("examples/digits/plan.py"))
    RunFolder(tmp_path, spec, bundle)
    kept = parse_spec(tomllib.loads((tmp_path / "run.toml").read_text()))
    assert kept == spec.model_copy(update={"plan": "plan/plan.py"})
    assert read_bundle(tmp_path / kept.plan).digest == bundle.digest


def test_the_model_is_plain_safetensors(tmp_path: Path, spec: RunSpec) -> None:
    model = {"0.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}
    RunFolder(tmp_path, spec).finished(model)
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == model.keys()
    assert all(torch.equal(read[name], model[name]) for name in model)


def test_a_whole_run_leaves_these_files_and_no_others(tmp_path: Path, spec: RunSpec) -> None:
    folder = RunFolder(tmp_path, spec)
    folder.environment({"kernel": "eager", "reason": "asked for"})
    folder.round(record(1))
    folder.finished({"w": torch.ones(1)})
    folder.end({"status": "completed"}, Report("digits", "", {}, folder.history))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["kernel"] == "eager"
    assert environment["torch"] == torch.__version__


def test_a_folder_that_is_gone_is_a_storage_error(tmp_path: Path, spec: RunSpec) -> None:
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run", spec)
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    (tmp_path / "run").rmdir()
    with pytest.raises(StorageError):
        folder.round(record(1))
