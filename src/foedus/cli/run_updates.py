"""``foedus run updates``: what clients sent in a round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foedus.cli.connection import connected
from foedus.cli.output import emit, json_option, table
from foedus.client import runs
from foedus.client.http import Connection
from foedus.domain.text import size


@click.command("updates")
@click.argument("run")
@click.argument("round_number", metavar="ROUND", type=click.IntRange(min=1))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Download them into this folder.")
@json_option
@connected
def command(connection: Connection, run: str, round_number: int, out: Path | None) -> None:
    """List the clients' updates of ROUND of RUN. They are kept where `trainer` in run.toml says so."""
    views = runs.updates(connection, run, round_number)
    rows = [[view.client, view.phase, size(view.size), "yes" if view.kept else "no", view.digest] for view in views]
    data: dict[str, Any] = {"updates": [view.model_dump(mode="json") for view in views]}
    text = table(["client", "phase", "size", "kept", "digest"], rows)
    if out is not None:
        paths = [str(path) for path in runs.download_updates(connection, run, round_number, out)]
        data, text = {**data, "files": paths}, "\n".join(paths)
    emit(data, text)
