"""Saved models: what a checkpointer keeps, as a safetensors file and a JSON record beside it. Free of torch.

``STEM.json`` names the file that it tells of, ``STEM-DIGEST.safetensors``. A new model is there, whole, before the
record is replaced, and the old one goes after it: whenever a process is killed, the record names a model that is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from foedus.domain.checkpoint import When
from foedus.domain.errors import IntegrityError, StorageError
from foedus.domain.table import Name, Table, Text

FORMAT = 1
RECORD, SUFFIX = ".json", ".safetensors"
RECORD_LIMIT = 64 << 10

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Move = Callable[[Path, Path], None]
"""Move a file to its place, durably: its bytes are on the disk before its name is."""


class SavedModel(Table):
    """What is known of a saved model. ``round``: after how many rounds; ``at``: when it was kept, in Unix seconds."""

    format: int = FORMAT
    run: Text
    client: Name
    checkpointer: Name
    when: When
    round: Annotated[int, Field(ge=0)]
    score: float | None = None
    plan: Text
    sha256: Digest
    size: Annotated[int, Field(ge=0)]
    at: float


def check_folder(folder: Path) -> None:
    """Refuse, before anything runs, a folder in which nothing could be kept.

    Raises:
        StorageError: ``saved_folder_unusable``.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        why = "It cannot be written." if folder.is_dir() else "It is not there."
        raise StorageError(
            "saved_folder_unusable", f"No models can be kept in {folder}.", why, "Make it, or name another folder."
        )


def keep(place: Path, stem: str, record: SavedModel, part: Path, move: Move) -> None:
    """Put the model in the file ``part`` (on the same disk) into ``place``, in place of what ``stem`` kept before."""
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = _file(place, stem, record)
    move(part, target)
    aside = place / f".{stem}{RECORD}.part"
    aside.write_text(record.model_dump_json(indent=2) + "\n")
    move(aside, place / f"{stem}{RECORD}")
    for old in place.glob(f"{stem}-????????????????{SUFFIX}"):
        if old != target:
            old.unlink(missing_ok=True)


def read(place: Path, stem: str) -> SavedModel | None:
    """The record of what ``stem`` keeps in ``place``; None where it keeps nothing.

    Raises:
        IntegrityError: ``saved_malformed``.
    """
    try:
        with (place / f"{stem}{RECORD}").open("rb") as file:
            content = json.loads(file.read(RECORD_LIMIT))
        if content["format"] == FORMAT:
            return SavedModel.model_validate(content)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise _malformed(f"The record {stem}{RECORD}") from error
    raise IntegrityError(
        "saved_malformed",
        f"A saved model has the format {content['format']!r:.20}, and this foedus reads {FORMAT}.",
        "",
        "Use the newer foedus that wrote it.",
    )


def model_of(place: Path, stem: str, record: SavedModel) -> Path:
    """The file of a saved model, checked against its record.

    Raises:
        IntegrityError: ``saved_malformed``.
    """
    path = _file(place, stem, record)
    try:
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    except OSError:
        whole = False
    if not whole:
        raise _malformed(f"The file {path.name}")
    return path


def stems(place: Path) -> list[str]:
    """What is kept in a client's folder."""
    return sorted(path.name.removesuffix(RECORD) for path in place.glob(f"[!.]*{RECORD}"))


def _file(place: Path, stem: str, record: SavedModel) -> Path:
    return place / f"{stem}-{record.sha256[:16]}{SUFFIX}"


def _malformed(what: str) -> IntegrityError:
    return IntegrityError(
        "saved_malformed", f"{what} of a saved model is not what was written.", "", "Remove it; the next one is kept."
    )
