"""Checkpoints: what comes back is what went in; what was torn or altered is told, and the one before is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from foedus.domain.checkpoint import CheckpointTable
from foedus.domain.errors import ConfigError, IntegrityError, StorageError
from foedus.domain.run import RunSpec, parse_spec
from foedus.domain.table import read_toml
from foedus.domain.tree import State, same
from foedus.engine import checkpoints, keeping
from foedus.engine.checkpoints import Checkpoint, newest, write
from foedus.engine.choice import Choice
from foedus.engine.folder import Position, RunFolder
from foedus.engine.keeping import Keeping
from foedus.engine.snapshot import Snapshot
from tests.unit.engine.test_records import record

EAGER = Choice("eager", "inline", 1, "as asked")


def snapshot(number: int = 1, clients: int = 3) -> Snapshot:
    model = {"b.weight": torch.randn(3, 2), "a.bias": torch.randn(2).to(torch.bfloat16), "steps": torch.tensor(number)}
    state = State({"model": model, "empty": {}}, {"round": number + 1, "phase": 0, "best": [0.1 + 0.2, 3]})
    held = {
        f"c{at:04d}": State({"control": {"w/x": torch.randn(2)}} if at % 2 else {}, {"epoch": at})
        for at in range(clients)
    }
    return Snapshot(state, held, State({"clock": {"at": torch.tensor(1.5)}}, {"time": 1e-300}))


def checkpoint(rounds: int = 1, clients: int = 3) -> Checkpoint:
    return Checkpoint(rounds, snapshot(rounds, clients), Position(), {"kernel": "eager"}, 2.5)


def alike(one: State, two: State) -> bool:
    return (
        one.data == two.data
        and [*one.tensors] == [*two.tensors]
        and all([*one.tensors[part]] == [*two.tensors[part]] for part in one.tensors)
        and all(same(one.tensors[part], two.tensors[part]) for part in one.tensors)
    )


def found(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    (folder / "rounds.jsonl").touch()
    return newest(folder, folder / "rounds.jsonl")


@pytest.mark.parametrize("clients", [0, 3, 17])
def test_what_comes_back_is_what_went_in(tmp_path: Path, clients: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SHARD_CLIENTS", 5)
    stored = checkpoint(7, clients)
    write(tmp_path, stored, keep=2)
    back, notes = found(tmp_path)
    assert back is not None
    assert notes == []
    assert (back.rounds, back.position, back.choice, back.seconds) == (7, Position(), {"kernel": "eager"}, 2.5)
    assert alike(back.snapshot.state, stored.snapshot.state)
    assert alike(back.snapshot.port, stored.snapshot.port)
    assert back.snapshot.clients.keys() == stored.snapshot.clients.keys()
    assert all(alike(back.snapshot.clients[name], state) for name, state in stored.snapshot.clients.items())
    files = {path.name for path in (tmp_path / "checkpoints" / "000007").iterdir()}
    assert len([name for name in files if name.startswith("clients-")]) == -(-clients // 5)


@pytest.mark.parametrize("limit", ["SHARD_TENSORS", "SHARD_BYTES"])
def test_clients_states_are_cut_into_files_by_what_they_weigh(
    tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, limit, 1)
    write(tmp_path, checkpoint(clients=4), keep=1)
    assert len(list((tmp_path / "checkpoints" / "000001").glob("clients-*"))) >= 2
    back, _ = found(tmp_path)
    assert back is not None
    assert len(back.snapshot.clients) == 4


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for rounds in (1, 2, 10, 9_999_999):
        write(tmp_path, checkpoint(rounds), keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000010", "9999999"]
    back, _ = found(tmp_path)
    assert back is not None
    assert back.rounds == 9_999_999


def test_a_checkpoint_of_the_same_round_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, checkpoint(3), keep=2)
    second = checkpoint(3)
    write(tmp_path, second, keep=2)
    back, _ = found(tmp_path)
    assert back is not None
    assert alike(back.snapshot.state, second.snapshot.state)


def _altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _version(path: Path) -> None:
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a byte of the model": ("strategy.safetensors", _altered),
    "a byte of a client's state": ("clients-00000.safetensors", _altered),
    "a byte of the clock": ("port.safetensors", _altered),
    "the end of the model": ("strategy.safetensors", _torn),
    "no model": ("strategy.safetensors", Path.unlink),
    "no clients": ("clients-00000.safetensors", Path.unlink),
    "no manifest": ("checkpoint.json", Path.unlink),
    "an empty manifest": ("checkpoint.json", lambda path: path.write_bytes(b"") and None),
    "a list for a manifest": ("checkpoint.json", lambda path: path.write_text("[]") and None),
    "another version": ("checkpoint.json", _version),
    "a number in the manifest": (
        "checkpoint.json",
        lambda path: path.write_text(path.read_text().replace('"rounds": 2', '"rounds": 3')) and None,
    ),
    "a name that leads away": (
        "checkpoint.json",
        lambda path: path.write_text(path.read_text().replace("clients-00000", "../clients-00000")) and None,
    ),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    for rounds in (1, 2):
        write(tmp_path, checkpoint(rounds), keep=2)
    damage(tmp_path / "checkpoints" / "000002" / name)
    back, notes = found(tmp_path)
    assert back is not None
    assert back.rounds == 1
    assert len(notes) == 1
    assert notes[0].startswith("The checkpoint after round 2 is not used: ")
    shutil.rmtree(tmp_path / "checkpoints" / "000001")
    with pytest.raises(IntegrityError) as refused:
        found(tmp_path)
    assert refused.value.code == "checkpoints_unusable"


def test_what_was_half_written_is_no_checkpoint_and_is_removed_by_the_next(tmp_path: Path) -> None:
    half = tmp_path / "checkpoints" / ".000001.part"
    half.mkdir(parents=True)
    (half / "strategy.safetensors").write_bytes(b"half")
    assert found(tmp_path) == (None, [])
    write(tmp_path, checkpoint(1), keep=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000001"]


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(StorageError) as refused:
        write(tmp_path, checkpoint(1), keep=2)
    assert refused.value.code == "checkpoint_unwritable"


@pytest.fixture
def spec() -> RunSpec:
    return parse_spec(read_toml(Path("examples/digits/run.toml")))


def rounds_of(folder: Path) -> list[int]:
    home = folder / "checkpoints"
    return sorted(int(path.name) for path in home.iterdir()) if home.is_dir() else []


def run_of(folder: RunFolder, keeper: Keeping, rounds: int) -> None:
    keeper.chosen(EAGER)
    for number in range(1, rounds + 1):
        folder.round(record(number))
        keeper.between(number, lambda number=number: snapshot(number))
    keeper.left(rounds, lambda: snapshot(rounds))


@pytest.mark.parametrize(
    ("table", "kept"),
    [
        ({}, [7]),
        ({"every": 3}, [6, 7]),
        ({"every": 2, "keep": 10}, [2, 4, 6, 7]),
        ({"every": 7}, [7]),
        ({"every": 0}, []),
    ],
)
def test_when_checkpoints_are_written(tmp_path: Path, spec: RunSpec, table: dict[str, int], kept: list[int]) -> None:
    folder = RunFolder(tmp_path, spec)
    run_of(folder, Keeping(folder, CheckpointTable(**table)), 7)
    assert rounds_of(tmp_path) == kept
    events = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ("checkpoint" in events) == bool(kept)


def test_after_so_many_seconds_one_is_written(tmp_path: Path, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SECONDS", 0.0)
    monkeypatch.setattr(keeping, "SHARE", 0)
    folder = RunFolder(tmp_path, spec)
    run_of(folder, Keeping(folder, CheckpointTable(keep=9)), 3)
    assert rounds_of(tmp_path) == [1, 2, 3]


def test_a_round_that_the_folder_has_not_heard_of_is_not_kept(tmp_path: Path, spec: RunSpec) -> None:
    folder = RunFolder(tmp_path, spec)
    keeper = Keeping(folder, CheckpointTable())
    keeper.left(1, snapshot)
    assert rounds_of(tmp_path) == []


def test_rounds_that_are_not_those_of_the_checkpoint_are_told(tmp_path: Path, spec: RunSpec) -> None:
    folder = RunFolder(tmp_path, spec)
    run_of(folder, Keeping(folder, CheckpointTable(every=1)), 3)
    whole = (tmp_path / "rounds.jsonl").read_bytes()
    (tmp_path / "rounds.jsonl").write_bytes(whole[:-1])
    back, notes = newest(tmp_path, tmp_path / "rounds.jsonl")
    assert back is not None
    assert back.rounds == 2
    assert "rounds.jsonl has other rounds" in notes[0].lower().replace("rounds.jsonl has", "rounds.jsonl has")


def test_a_choice_that_gives_other_bits_is_refused(tmp_path: Path, spec: RunSpec) -> None:
    folder = RunFolder(tmp_path, spec)
    before = Checkpoint(
        1, snapshot(), Position(), {"kernel": "graph", "stack": 10, "executor": "workers", "workers": 2}
    )
    with pytest.raises(ConfigError) as refused:
        Keeping(folder, CheckpointTable(), before).chosen(EAGER)
    assert refused.value.code == "choice_differs"
    Keeping(folder, CheckpointTable(), before).chosen(Choice("graph", "inline", 1, "another reason", 10))
