"""Checkpoints of a simulation: all that a run goes on from, as tensors and JSON, whole or not there at all.

A checkpoint is a folder ``checkpoints/000020`` (after round 20) of safetensors files and ``checkpoint.json``, which
names each file's length and SHA-256, how much of rounds.jsonl belongs to it, and which kernel ran. It is written aside,
synced, and renamed; what was torn or altered is told by its digests, and the checkpoint before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foedus.domain.codec import decode, encode
from foedus.domain.errors import FoedusError, IntegrityError, StorageError
from foedus.domain.plain import Json
from foedus.domain.tree import State, size_in_bytes
from foedus.engine.folder import CHECKPOINTS, Position
from foedus.engine.json_text import to_json
from foedus.engine.snapshot import Snapshot

VERSION = 1
MANIFEST, STRATEGY, PORT = "checkpoint.json", "strategy.safetensors", "port.safetensors"
ROUND = re.compile(r"\d{6,9}")
CLIENTS = re.compile(r"clients-\d{5}\.safetensors")
MANIFEST_LIMIT = 4 << 20

HEADER_SHARE = 32
"""What is not tensors stands in a file's header, of which 2 MB count as a whole file."""

SHARD_CLIENTS, SHARD_TENSORS, SHARD_BYTES = 2_000, 5_000, 64 << 20
"""A file of clients' states is closed at any of these, so that memory stays small, and headers within their limits."""


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot after ``rounds`` rounds, what of rounds.jsonl belongs to it, and the choice of kernel and executor."""

    rounds: int
    snapshot: Snapshot
    position: Position
    choice: Mapping[str, Json]
    seconds: float = 0.0


def write(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Store a checkpoint in a run's folder, and remove all but the ``keep`` newest.

    Raises:
        StorageError: ``checkpoint_unwritable``; what was there before is still there.
    """
    home = folder / CHECKPOINTS
    aside, place = home / f".{checkpoint.rounds:06}.part", home / f"{checkpoint.rounds:06}"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        files = {name: _store(aside / name, content) for name, content in _files(checkpoint.snapshot)}
        _store(aside / MANIFEST, _manifest(checkpoint, files))
        _sync(aside)
        _remove(place)
        aside.rename(place)
        _sync(home)
        for old in _rounds(home)[keep:]:
            _remove(home / old)
    except OSError as error:
        raise StorageError(
            "checkpoint_unwritable", f"{place} cannot be written.", error.strerror or "", "Make room on the disk."
        ) from error


def newest(folder: Path, rounds: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole and fits ``rounds`` (rounds.jsonl), and why newer ones were not used.

    None where there is none at all: the run then begins anew.

    Raises:
        IntegrityError: ``checkpoints_unusable`` where there are checkpoints, and none can be used.
    """
    complaints = list[str]()
    for name in _rounds(folder / CHECKPOINTS):
        try:
            checkpoint = _read(folder / CHECKPOINTS / name)
            _check_rounds(rounds, checkpoint.position)
            return checkpoint, complaints
        except FoedusError as error:
            complaints.append(f"The checkpoint after round {int(name)} is not used: {error.what}")
    if complaints:
        raise IntegrityError(
            "checkpoints_unusable",
            f"No checkpoint in {folder} can be used.",
            " ".join(complaints),
            "Begin the run anew (`--out` with `--force`).",
        )
    return None, []


def _files(snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
    yield STRATEGY, _encode([("", snapshot.state)])
    yield PORT, _encode([("", snapshot.port)])
    for number, shard in enumerate(_shards(snapshot.clients)):
        yield f"clients-{number:05}.safetensors", _encode(shard)


def _shards(clients: Mapping[str, State]) -> Iterator[list[tuple[str, State]]]:
    shard, tensors, size = list[tuple[str, State]](), 0, 0
    for name in sorted(clients):
        shard.append((name, clients[name]))
        parts = clients[name].tensors.values()
        tensors, size = tensors + sum(map(len, parts)), size + sum(map(size_in_bytes, parts))
        size += HEADER_SHARE * len(json.dumps(dict(clients[name].data)))
        if len(shard) >= SHARD_CLIENTS or tensors >= SHARD_TENSORS or size >= SHARD_BYTES:
            yield shard
            shard, tensors, size = [], 0, 0
    if shard:
        yield shard


def _encode(states: Iterable[tuple[str, State]]) -> bytes:
    """Named states as one file that gives back every part, empty ones too, with the tensors in their order."""
    tensors, rows = {}, list[Json]()
    for at, (name, state) in enumerate(states):
        for number, inside in enumerate(state.tensors.values()):
            tensors[f"{at}.{number}"] = inside
        parts: list[Json] = [[part, list(inside)] for part, inside in state.tensors.items()]
        rows.append([name, dict(state.data), parts])
    return encode(State(tensors, {"states": rows}))


def _decode(content: bytes) -> dict[str, State]:
    packed = decode(content)
    rows: Any = packed.data["states"]
    return {
        name: State(
            {
                part: {key: packed.tensors[f"{at}.{number}"][key] for key in keys}
                for number, (part, keys) in enumerate(parts)
            },
            data,
        )
        for at, (name, data, parts) in enumerate(rows)
    }


def _manifest(checkpoint: Checkpoint, files: Mapping[str, Json]) -> bytes:
    body: dict[str, Json] = {
        "version": VERSION,
        "rounds": checkpoint.rounds,
        "rounds_jsonl": {"size": checkpoint.position.size, "sha256": checkpoint.position.digest},
        "choice": dict(checkpoint.choice),
        "seconds": checkpoint.seconds,
        "files": dict(files),
    }
    return (to_json({**body, "sha256": _digest_of(body)}, indent=2) + "\n").encode()


def _digest_of(body: Mapping[str, Json]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(place: Path) -> Checkpoint:
    try:
        manifest = _read_manifest(place / MANIFEST)
        files = {name: _read_file(place / name, facts) for name, facts in manifest["files"].items() if _legal(name)}
        clients = {
            name: state
            for file in sorted(files)
            if CLIENTS.fullmatch(file)
            for name, state in _decode(files[file]).items()
        }
        snapshot = Snapshot(_decode(files[STRATEGY])[""], clients, _decode(files[PORT])[""])
        position = Position(manifest["rounds_jsonl"]["size"], manifest["rounds_jsonl"]["sha256"])
        return Checkpoint(manifest["rounds"], snapshot, position, manifest["choice"], manifest["seconds"])
    except OSError as error:
        raise _torn(f"{error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _torn("it is not what foedus writes") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        body: dict[str, Any] = json.loads(file.read(MANIFEST_LIMIT))
    claimed = body.pop("sha256")
    if body["version"] != VERSION:
        raise _torn(f"it has version {body['version']!r:.20}, and this foedus reads {VERSION}")
    if claimed != _digest_of(body):
        raise _torn(f"{path.name} was altered")
    return body


def _read_file(path: Path, facts: Mapping[str, Any]) -> bytes:
    if path.stat().st_size != facts["size"]:
        raise _torn(f"{path.name} has another length")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise _torn(f"{path.name} was altered")
    return content


def _legal(name: str) -> bool:
    return name in (STRATEGY, PORT) or CLIENTS.fullmatch(name) is not None


def _check_rounds(path: Path, position: Position) -> None:
    """Whether rounds.jsonl still begins with the rounds that the checkpoint was made after."""
    digest, left = hashlib.sha256(), position.size
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
    if left or digest.hexdigest() != position.digest:
        raise _torn("rounds.jsonl has other rounds")


def _torn(why: str) -> IntegrityError:
    return IntegrityError("checkpoint_torn", f"{why[:1].upper()}{why[1:]}.")


def _rounds(home: Path) -> list[str]:
    """The checkpoints' names, newest first."""
    found = [path.name for path in home.iterdir() if ROUND.fullmatch(path.name)] if home.is_dir() else []
    return sorted(found, key=int, reverse=True)


def _remove(place: Path) -> None:
    """Remove a checkpoint, if it is there: first what makes it one, so that no half of it is ever taken for a whole."""
    (place / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)


def _store(path: Path, content: bytes) -> Json:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
