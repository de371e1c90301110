"""Checkpointers in a simulation: the models that clients keep in the run's folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from foedus.domain.codec import TensorFile
from foedus.domain.errors import ConfigError, ConflictError, NotFoundError
from foedus.domain.saved import SavedModel, model_of, read, stems
from foedus.domain.tree import Tensors, same
from foedus.engine.checkpoints import newest
from foedus.engine.choice import Engine
from foedus.engine.resume import take_up
from foedus.engine.simulate import simulate
from tests.plans import DIGITS, prepared, table

EAGER = Engine("eager", "inline")
BEST = {"keep": "best", "by": "accuracy"}
ASKED: list[dict[str, Any]] = [
    {"when": "pre"},
    {"when": "post"},
    {"when": "pre", **BEST},
    {"when": "post", **BEST},
    {"when": "pre", "keep": "best", "by": "thrift"},
]
PLAN = DIGITS + '\nscores = {"thrift": lambda measured: -measured["loss"]}\ndirections = {"thrift": "max"}\n'


def kept(folder: Path, client: str, name: str) -> tuple[SavedModel, Tensors]:
    place = folder / client
    record = read(place, name)
    assert record is not None
    with TensorFile(model_of(place, name, record)) as file:
        return record, dict(file)


def test_h2_pre_is_the_best_local_model_and_post_the_best_global_one(tmp_path: Path) -> None:
    """H2: on clients with different data they differ; each is the model of the round that its record names."""
    saved = tmp_path / "saved"
    run = replace(prepared(tmp_path, PLAN, rounds=4, checkpointer=ASKED), saved=saved)
    result = simulate(run, EAGER)
    assert "checkpointers" in result.choice.reason or result.choice.kernel == "eager"
    digests = [record.model for record in result.rounds]
    locals_, globals_ = [], []
    for client in ("c0000", "c0001", "c0002", "c0003"):
        (pre, own), (post, common) = kept(saved, client, "pre-best-accuracy"), kept(saved, client, "post-best-accuracy")
        by_round = {n: simulate(prepared(tmp_path, PLAN, rounds=n), EAGER) for n in {pre.round - 1, post.round} if n}
        start = by_round[pre.round - 1].model if pre.round > 1 else run.model
        assert by_round[post.round].model_digest == digests[post.round - 1]
        assert same(common, by_round[post.round].model)
        assert not same(own, common) and not same(own, start)
        receipts = [_receipt(record.phases[1].receipts, client) for record in result.rounds]
        assert post.score == max(receipts) and post.round == _last(receipts)
        latest, model = kept(saved, client, "post-latest")
        assert latest.round == 4 and same(model, result.model)
        locals_.append(own)
        globals_.append(common)
        assert stems(saved / client) == sorted(_names())
    assert not same(locals_[0], locals_[1])


def _receipt(receipts: Any, client: str) -> float:
    return float(next(receipt.metrics["accuracy"] for receipt in receipts if receipt.client == client))


def _last(values: list[float]) -> int:
    return max(at for at, value in enumerate(values, 1) if value == max(values))


def _names() -> list[str]:
    return ["pre-latest", "post-latest", "pre-best-accuracy", "post-best-accuracy", "pre-best-thrift"]


def test_h2_a_model_that_is_never_aggregated_is_the_same_before_and_after(tmp_path: Path) -> None:
    """H2: every tensor is personal, so that what a client has trained is what it has after aggregation."""
    strategy = {"name": "fedavg", "local": {"lr": 0.1, "personal": ["*"]}}
    best: list[dict[str, Any]] = [{"when": when, **BEST} for when in ("pre", "post")]
    run = prepared(tmp_path, rounds=3, checkpointer=best, strategy=strategy)
    simulate(replace(run, saved=tmp_path / "saved"), EAGER)
    for client in ("c0000", "c0001"):
        (pre, own), (post, common) = (kept(tmp_path / "saved", client, f"{w}-best-accuracy") for w in ("pre", "post"))
        assert (pre.sha256, pre.round, pre.score) == (post.sha256, post.round, post.score)
        assert same(own, common)


def test_checkpointers_change_no_bit_of_the_run_and_workers_keep_the_same_files(tmp_path: Path) -> None:
    plain = simulate(prepared(tmp_path, PLAN, rounds=3), EAGER)
    asked = prepared(tmp_path, PLAN, rounds=3, checkpointer=ASKED)
    inline = simulate(replace(asked, saved=tmp_path / "one"), EAGER)
    spread = simulate(replace(asked, saved=tmp_path / "two"), Engine("auto", "workers", 2))
    assert plain.model_digest == inline.model_digest == spread.model_digest
    assert spread.choice.kernel == "eager"
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two") != {}


def _contents(folder: Path) -> Mapping[str, tuple[int, float | None, str]]:
    found = {}
    for place in sorted(folder.iterdir()):
        for stem in stems(place):
            record = read(place, stem)
            assert record is not None
            found[f"{place.name}/{stem}"] = (record.round, record.score, record.sha256)
    return found


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ([{"when": "pre", "keep": "best", "by": "accurate"}], "checkpointer_unknown"),
        ([{"when": "pre"}, {"when": "pre"}], "checkpointers_collide"),
    ],
)
def test_h1_and_h5_what_cannot_be_kept_is_refused_before_anything_runs(
    asked: list[dict[str, Any]], code: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        prepared(tmp_path, checkpointer=asked)
    assert caught.value.code == code


def test_an_executor_that_may_be_on_other_machines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        simulate(prepared(tmp_path, PLAN, checkpointer=ASKED), Engine("eager", "ray"))
    assert caught.value.code == "checkpointers_on_ray"


def test_h7_a_simulation_that_was_killed_and_moved_goes_on_with_its_bests_optimizers_and_schedules(
    tmp_path: Path,
) -> None:
    """H7, H8: SIGKILL when round 3 is done and not yet kept; the folder is moved; one command goes on.

    Bits and saved models are those of the run that nobody killed.
    """
    local = {"lr": 0.1, "momentum": 0.9, "keep_optimizer": True, "lr_schedule": {"name": "cosine", "t_max": 6}}
    run = table(rounds=4, checkpointer=ASKED, strategy={"name": "fedavg", "local": local}, checkpoint={"every": 1})
    (tmp_path / "plan.py").write_text(PLAN)
    (tmp_path / "run.toml").write_text(tomli_w.dumps(run))
    arguments = ["simulate", str(tmp_path / "run.toml"), "--kernel", "eager", "--executor", "inline"]
    _foedus(*arguments, "--out", str(tmp_path / "whole"))
    killed = _foedus(*arguments, "--out", str(tmp_path / "first"), kill="checkpoints/000003")
    assert killed == -signal.SIGKILL
    (tmp_path / "first").rename(tmp_path / "moved")
    _foedus("simulate", "--resume", str(tmp_path / "moved"))
    assert (tmp_path / "moved" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert _contents(tmp_path / "moved" / "saved") == _contents(tmp_path / "whole" / "saved") != {}


def test_h6_without_a_checkpoint_a_run_begins_anew_or_says_that_nothing_was_kept(tmp_path: Path) -> None:
    """H6: no file is a fresh start and nothing is loaded; to go on where nothing is kept is an explicit error."""
    (tmp_path / "plan.py").write_text(DIGITS)
    for name, every in (("kept", 1), ("not", 0)):
        (tmp_path / f"{name}.toml").write_text(tomli_w.dumps(table(rounds=1, checkpoint={"every": every})))
        _foedus("simulate", str(tmp_path / f"{name}.toml"), "--out", str(tmp_path / name))
    assert newest(tmp_path / "not", tmp_path / "not" / "rounds.jsonl") == (None, [])
    found, complaints = newest(tmp_path / "kept", tmp_path / "kept" / "rounds.jsonl")
    assert found is not None and found.rounds == 1 and complaints == []
    with pytest.raises(ConflictError) as caught:
        take_up(tmp_path / "not", {"rounds": "2"}, Engine())
    assert caught.value.code == "run_complete" and "kept no checkpoint" in caught.value.what
    with pytest.raises(NotFoundError) as missing:
        take_up(tmp_path / "nowhere", {}, Engine())
    assert missing.value.code == "run_folder_missing"


KILL = """
import os, signal, sys
from foedus.cli.main import main

def kill(event, arguments):
    if event == "os.rename" and os.environ["KILL"] in str(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
main()
"""
"""Dies when it is about to put a file in the place that is named."""


def _foedus(*arguments: str, kill: str = "") -> int:
    environment = {**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1", "KILL": kill}
    begin = ["-c", KILL] if kill else ["-m", "foedus"]
    done = subprocess.run(
        [sys.executable, *begin, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode
