"""Saved models and saved state, live: real processes are killed and moved, and the run ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foedus.client import runs
from foedus.domain.codec import TensorFile, decode
from foedus.domain.saved import SavedModel, read, stems
from foedus.domain.tree import State, model_digest
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import Result, simulate
from foedus.node.saved import SavedModels
from tests.federation import WAIT, LocalFederation, spawn, start_federation, stop, until
from tests.plans import DROPOUT, prepared

ROUNDS = 4
CLIENTS = ("c0000", "c0001")
DATA = {
    "name": "digits",
    "tags": ["digits"],
    "held_out": 0.2,
    "partition": {"name": "dirichlet", "alpha": 0.3, "clients": 2},
}
LOCAL = {
    "lr": 0.1,
    "momentum": 0.9,
    "num_updates": 10,
    "keep_optimizer": True,
    "lr_schedule": {"name": "cosine", "t_max": 30, "over": "steps"},
    "personal": ["3.*"],
}
STRATEGY = {"name": "fedavg", "local": LOCAL, "server": {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9}}
BEST = {"keep": "best", "by": "accuracy"}
ASKED = [{"when": when, **how} for when in ("pre", "post") for how in ({}, BEST)]
Contents = Mapping[str, tuple[int, float | None, str]]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two nodes."""
    folder = tmp_path_factory.mktemp("federation")
    with start_federation(folder, _ready(folder)) as running:
        yield running


def _ready(folder: Path, **changes: Any) -> Prepared:
    usual = {"data": DATA, "cohort": {"size": 2}, "strategy": STRATEGY, "rounds": ROUNDS, "checkpointer": ASKED}
    return prepared(folder, DROPOUT, **{**usual, **changes})


def _simulated(ready: Prepared, folder: Path) -> tuple[Result, Contents]:
    result = simulate(replace(ready, saved=folder / "saved"), Engine("eager", "inline"))
    found = {}
    for place in sorted((folder / "saved").iterdir()):
        for stem in stems(place):
            record = read(place, stem)
            assert record is not None
            found |= _content(record)
    return result, found


def _live(federation: LocalFederation, run: str, moved: Mapping[str, Path] | None = None) -> Contents:
    found: dict[str, tuple[int, float | None, str]] = {}
    homes = {client: federation.home(client) for client in CLIENTS} | dict(moved or {})
    for client, home in homes.items():
        for place in SavedModels(home / "saved").all():
            if place.record.run == run:
                assert place.record.client == client and place.model().is_file()
                found |= _content(place.record)
    return found


def _content(record: SavedModel) -> dict[str, tuple[int, float | None, str]]:
    return {f"{record.client}/{record.checkpointer}": (record.round, record.score, record.sha256)}


def _ended_as(federation: LocalFederation, run: str, expected: Result) -> None:
    """Nothing failed, and every round has the model that the simulation's has."""
    view = federation.finish(run)
    with federation.connection() as connection:
        listed = runs.rounds(connection, run).rounds
    receipts = [(record.round, receipt) for record in listed for phase in record.phases for receipt in phase.receipts]
    assert [(number, receipt.client, receipt.failure) for number, receipt in receipts if receipt.failure] == []
    assert [record.model for record in listed] == [record.model for record in expected.rounds]
    assert (view.id, view.status, view.model_digest) == (run, "completed", expected.model_digest)


def _states(federation: LocalFederation, client: str) -> list[State]:
    """The client's states, the newest first."""
    files = [path for path in (federation.home(client) / "states").rglob("*") if path.is_file()]
    return [decode(path.read_bytes()) for path in sorted(files, key=lambda path: -path.stat().st_mtime_ns)]


def _begin(federation: LocalFederation, ready: Prepared, done: int) -> str:
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    until(f"{done} rounds are done", lambda: federation.show(run).round >= done)
    return run


def _names(state: State) -> dict[str, list[str]]:
    return {part: sorted(tensors) for part, tensors in state.tensors.items()}


def _kill(federation: LocalFederation, victims: str) -> None:
    assert federation.coordinator is not None
    if victims in ("server", "both"):
        stop(federation.coordinator, signal.SIGKILL)
    if victims in ("client", "both"):
        stop(federation.nodes["c0001"], signal.SIGKILL)
        federation.start_node("c0001")
    if victims in ("server", "both"):
        federation.start_coordinator()


def test_f12_f13_h7_a_node_is_restarted_and_a_client_the_server_and_both_are_killed_in_one_run(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """F13: a restart between rounds keeps optimizer, private layers and split, as they lie in the node's state.

    H7, H6, H2: a client, the server and both are killed after a round each; optimizer, schedule, step counters,
    personal tensors, the server's momentum and the bests go on, bit for bit. F12: it is the same run, which goes on at
    the next round, with the same parameters.
    """
    ready = _ready(tmp_path, rounds=6)
    expected, files = _simulated(ready, tmp_path)
    run = _begin(federation, ready, 1)
    stop(federation.nodes["c0001"])
    before = _states(federation, "c0001")[0]
    assert set(before.tensors) >= {"momentum", "personal"} and before.data["split"]
    federation.start_node("c0001")
    for done, victims in ((2, "client"), (3, "server"), (4, "both")):
        until(f"{done} rounds are done", lambda done=done: federation.show(run).round >= done)
        _kill(federation, victims)
        assert federation.show(run).id == run and federation.show(run).round >= done
    _ended_as(federation, run, expected)
    assert _live(federation, run) == files and len(files) == 2 * len(ASKED)
    after = _states(federation, "c0001")[0]
    assert after.data["split"] == before.data["split"]
    assert _names(after) == _names(before)
    assert (before.data["steps"], after.data["steps"]) == (10 * (int(str(before.data["steps"])) // 10), 60)


@pytest.mark.soak
@pytest.mark.parametrize("victims", ["client", "server", "both"])
def test_h7_f12_killed_after_a_round_and_started_again_the_run_ends_as_the_uninterrupted_one(
    victims: str, federation: LocalFederation, tmp_path: Path
) -> None:
    """H7, F12: each alone."""
    ready = _ready(tmp_path)
    expected, files = _simulated(ready, tmp_path)
    run = _begin(federation, ready, 2)
    _kill(federation, victims)
    _ended_as(federation, run, expected)
    assert _live(federation, run) == files


@pytest.mark.parametrize(
    ("when", "occurrence"),
    [
        ("before", 6),
        *(pytest.param(when, at, marks=pytest.mark.soak) for when in ("before", "after") for at in (1, 2, 5, 8, 9)),
    ],
)
def test_h8_a_node_killed_while_it_keeps_a_model_has_the_one_before_or_the_new_one(
    when: str, occurrence: int, federation: LocalFederation, tmp_path: Path
) -> None:
    """H8: at the renames of a model and of its record; what is listed loads, and the end is the uninterrupted one's."""
    ready = _ready(tmp_path, rounds=2)
    expected, files = _simulated(ready, tmp_path)
    stop(federation.nodes["c0001"])
    federation.start_node("c0001", FOEDUS_CRASH=f"rename:node_saved:{when}:{occurrence}")
    victim = federation.nodes["c0001"]
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    log = federation.folder / "node-c0001.log"
    assert victim.wait(WAIT) == -signal.SIGKILL, log.read_text()[-2000:]
    for place in SavedModels(federation.home("c0001") / "saved").all():
        with TensorFile(place.model()) as file:
            assert len(file) == len(ready.model)
    federation.start_node("c0001")
    _ended_as(federation, run, expected)
    assert _live(federation, run) == files


def test_an_owner_lists_and_exports_what_is_kept_and_nothing_of_it_was_sent(
    federation: LocalFederation, tmp_path: Path
) -> None:
    ready = _ready(tmp_path, rounds=2)
    result, files = _simulated(ready, tmp_path)
    run = federation.submit(ready)
    federation.approve_all(ready.bundle.digest)
    assert federation.finish(run).status == "completed"
    home = ["--home", str(federation.home("c0000"))]
    shown = _foedus("list", "--json", *home)
    assert shown.returncode == 0, shown.stdout
    listed = json.loads(shown.stdout)["data"]["saved"]
    mine = {row["checkpointer"]: row for row in listed if row["run"] == run}
    assert {f"c0000/{name}" for name in mine} == {name for name in files if name.startswith("c0000")}
    target = tmp_path / "latest.safetensors"
    arguments = ["export", mine["post-latest"]["id"], str(target), *home]
    exported = _foedus(*arguments)
    assert exported.returncode == 0, exported.stderr
    with TensorFile(target) as file:
        model = dict(file)
    common = {name: tensor for name, tensor in model.items() if not name.startswith("3.")}
    assert model_digest(common) == model_digest({name: result.model[name] for name in common})
    assert json.loads((tmp_path / "latest.safetensors.json").read_text())["run"] == run
    again = _foedus(*arguments)
    assert again.returncode != 0 and "[export_exists]" in again.stderr
    blobs = {path.parent.name + path.name for path in (federation.folder / "coordinator" / "blobs").rglob("*")}
    assert not blobs & {row["sha256"] for row in mine.values() if row["when"] == "pre"}


def _foedus(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foedus", "node", "checkpoint", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": "src"}, capture_output=True, text=True, check=False)


def test_h1_a_folder_for_models_that_is_not_there_is_refused_when_the_node_starts(
    federation: LocalFederation, tmp_path: Path
) -> None:
    stop(federation.nodes["c0000"])
    log = tmp_path / "log"
    process = spawn(
        log, "node", "start", "--home", str(federation.home("c0000")), FOEDUS_NODE_SAVED=str(tmp_path / "absent")
    )
    try:
        assert process.wait(WAIT) != 0
        assert "[saved_folder_unusable]" in log.read_text() and str(tmp_path / "absent") in log.read_text()
    finally:
        stop(process)
        federation.start_node("c0000")


def test_f12_folders_that_were_moved_and_loaded_twice_go_on_with_the_same_run(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """F12: coordinator and node are killed, their folders moved, and one command each restores them, twice.

    It is the last one here, since the federation is elsewhere after it.
    """
    ready = _ready(tmp_path)
    expected, files = _simulated(ready, tmp_path)
    run = _begin(federation, ready, 2)
    assert federation.coordinator is not None
    stop(federation.coordinator, signal.SIGKILL)
    stop(federation.nodes["c0001"], signal.SIGKILL)
    here, home = tmp_path / "elsewhere", tmp_path / "home"
    (federation.folder / "coordinator").rename(here)
    federation.home("c0001").rename(home)
    logs = federation.folder / "moved.log"
    for time in (1, 2):
        federation.coordinator = spawn(
            logs, "coordinator", "start", "--folder", str(here), "--port", str(federation.port)
        )
        until("the coordinator is up", federation.is_ready)
        node = spawn(logs, "node", "start", "--home", str(home))
        federation.nodes["c0001"] = node
        assert federation.show(run).id == run and federation.show(run).round >= 2
        if time == 1:
            stop(node, signal.SIGKILL)
            stop(federation.coordinator, signal.SIGKILL)
    _ended_as(federation, run, expected)
    assert _live(federation, run, {"c0001": home}) == files
