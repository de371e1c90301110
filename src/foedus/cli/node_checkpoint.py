"""``foedus node checkpoint``: the models that runs' checkpointers keep on this node."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option, table
from foedus.domain.errors import ConflictError, StorageError
from foedus.domain.text import size
from foedus.node.saved import Place, SavedModels, saved_folder
from foedus.node.settings import read_settings
from foedus.node.vault import Vault

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("checkpoint")
def command() -> None:
    """Models that runs keep here, of before aggregation and after it; they never leave the node by themselves."""


@command.command("list")
@home_option
@json_option
def list_saved(home: Path) -> None:
    """List every saved model, the newest first."""
    found = _saved(home).all()
    rows = [
        [
            place.id,
            place.record.run,
            place.record.client,
            place.record.checkpointer,
            str(place.record.round),
            "" if place.record.score is None else f"{place.record.score:.6g}",
            size(place.record.size),
            f"{datetime.fromtimestamp(place.record.at, UTC):%Y-%m-%d %H:%M}",
        ]
        for place in found
    ]
    heads = ["id", "run", "client", "checkpointer", "round", "score", "size", "kept"]
    emit({"saved": list(map(_facts, found))}, table(heads, rows) if rows else "No run has kept a model here.")


@command.command("export")
@click.argument("saved", metavar="ID")
@click.argument("target", metavar="FILE", type=FILE)
@home_option
@json_option
def export(saved: str, target: Path, home: Path) -> None:
    """Copy the saved model whose id begins with ID to FILE (safetensors), and its record to FILE.json."""
    place = _saved(home).find(saved)
    record = target.with_name(target.name + ".json")
    for path in (target, record):
        if path.exists():
            raise ConflictError("export_exists", f"{path} is there already.", "", "Name another file.")
    try:
        shutil.copyfile(place.model(), target)
        record.write_text(place.record.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise StorageError(
            "export_failed", f"{target} cannot be written.", error.strerror or "", "Name another file."
        ) from error
    emit({**_facts(place), "file": str(target)}, f"{place.record.checkpointer} of {place.record.run}: {target}")


def _saved(home: Path) -> SavedModels:
    with Vault(home):
        return SavedModels(saved_folder(home, read_settings().saved))


def _facts(place: Place) -> dict[str, Any]:
    return {"id": place.id, **place.record.model_dump(mode="json")}
