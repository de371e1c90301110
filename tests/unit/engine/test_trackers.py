"""Trackers: what their own readers find, and that none of them ever stops a run."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import foedus
from foedus.domain.errors import ConfigError
from foedus.engine import trackers
from foedus.engine.trackers import Tracker, tracking
from tests.plans import spec

DIGITS = Path("examples/digits/run.toml")


def run(folder: Path, **track: Any) -> foedus.Result:
    """A run of two rounds, recorded in ``folder``/run and told to these trackers."""
    how: dict[str, Any] = {"kernel": "eager", "executor": "inline", "progress": False}
    return foedus.simulate(DIGITS, {"rounds": 2, "track": track}, out=folder / "run", **how)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = run(tmp_path, tensorboard=str(tmp_path / "board"))
    events = reader.EventAccumulator(str(tmp_path / "board" / "run"))
    events.Reload()
    told = [(event.step, event.value) for event in events.Scalars("test/accuracy")]
    assert told[:2] == [(r.round, pytest.approx(r.metrics["test/accuracy"])) for r in result.rounds]
    assert [event.value for event in events.Scalars("held_out/loss")] == [pytest.approx(result.held_out["loss"])]
    assert "bytes/down" in events.Tags()["scalars"]
    assert "run.toml/text_summary" in events.Tags()["tensors"]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_what_was_told(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    result = run(tmp_path, mlflow={"uri": str(tmp_path / "mlruns"), "experiment": "digits"})
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history][:2] == [
        (r.round, r.metrics["train/loss"]) for r in result.rounds
    ]
    assert found.data.metrics["held_out/accuracy"] == result.held_out["accuracy"]
    assert found.data.params["strategy.local.lr"] == "0.1"


def test_weights_and_biases_writes_offline(tmp_path: Path) -> None:
    """In a process of its own: the library's own process writes on until the end of the one that it serves."""
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("the extra `wandb` is not installed")
    command = [sys.executable, "-m", "foedus", "simulate", str(DIGITS), "--out", str(tmp_path / "run")]
    options = [
        "rounds=2",
        "track.wandb.project=digits",
        "track.wandb.mode=offline",
        f"track.wandb.folder={tmp_path}/wb",
    ]
    subprocess.run([*command, *(f"--set={option}" for option in options)], check=True, capture_output=True)
    (folder,) = (tmp_path / "wb" / "wandb").glob("offline-run-*")
    (written,) = folder.glob("*.wandb")
    assert b"test/accuracy" in written.read_bytes()


@pytest.mark.parametrize("track", [{"tensorboard": "board"}, {"mlflow": "mlruns"}, {"wandb": {}}])
def test_a_library_that_is_missing_is_refused_before_round_1(
    track: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (name,) = track
    module = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as refused:
        run(tmp_path, **track)
    assert refused.value.code == "extra_missing"
    assert f"foedus[{name}]" in refused.value.fix


class Board:
    """A library whose writer breaks where it is told to."""

    def __init__(self, breaks: str) -> None:
        self.breaks = breaks
        self.told: list[str] = []

    def SummaryWriter(self, folder: str) -> Board:
        return self._do("start")

    def add_text(self, *arguments: Any) -> None:
        pass

    def add_scalar(self, *arguments: Any) -> None:
        self._do("log")

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._do("close")

    def _do(self, what: str) -> Board:
        self.told.append(what)
        if what == self.breaks:
            raise OSError("the disk is full")
        return self


@pytest.mark.parametrize("breaks", ["start", "log", "close"])
def test_a_tracker_that_fails_is_logged_once_and_the_run_goes_on(
    breaks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board(breaks)
    monkeypatch.setattr(trackers, "_library", lambda module, extra: board)
    with caplog.at_level(logging.WARNING):
        assert len(run(tmp_path, tensorboard="board").rounds) == 2
    (warning,) = [record.message for record in caplog.records if record.name == "foedus.track"]
    assert "tensorboard" in warning
    assert "the disk is full" in warning
    assert board.told.count(breaks) == 1


def test_a_tracker_ends_although_the_run_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    tracker = Tracker(lambda number, values: None, lambda number, values: None, lambda: ended.append("closed"))
    monkeypatch.setattr(trackers, "_starters", lambda spec, run: {"own": lambda: tracker})
    with pytest.raises(KeyboardInterrupt), tracking(spec(), "run"):
        raise KeyboardInterrupt
    assert ended == ["closed"]


def test_without_the_table_nobody_is_told() -> None:
    with tracking(spec(), "run") as tracked:
        assert tracked.observers == []
