"""``foedus model``: the models of a live run."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.connection import connected
from foedus.cli.output import emit, json_option, table
from foedus.client import runs
from foedus.client.http import Connection
from foedus.domain.text import size


@click.group("model")
def command() -> None:
    """List and download the models of a live run."""


@command.command("list")
@click.argument("run")
@json_option
@connected
def list_command(connection: Connection, run: str) -> None:
    """List every version of RUN's model, by round; round 0 is the initial one."""
    views = runs.models(connection, run)
    rows = [[view.round, view.model_digest, size(view.size)] for view in views]
    text = table(["round", "model digest", "size"], rows)
    emit({"models": [view.model_dump(mode="json") for view in views]}, text)


@command.command("download")
@click.argument("run")
@click.option("--round", "round_number", type=click.IntRange(min=0), help="After this round (default: the latest).")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file (default: RUN.safetensors).")
@json_option
@connected
def download_command(connection: Connection, run: str, round_number: int | None, out: Path | None) -> None:
    """Download a model of RUN as safetensors; its bytes are checked against their digest."""
    # The coordinator has found the run before its id becomes a file's name.
    target = out or Path(f"{runs.show(connection, run).id}.safetensors")
    view = runs.download_model(connection, run, round_number, target)
    data = {**view.model_dump(mode="json"), "path": str(target)}
    emit(data, f"{target}  round {view.round}, {size(view.size)}, model {view.model_digest}")
