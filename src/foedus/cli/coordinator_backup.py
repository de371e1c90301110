"""``foedus coordinator backup``: a copy of all that a coordinator keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foedus.cli.coordinator_kept import opened, progress
from foedus.cli.coordinator_settings import PLACE, blobs_option, place_options
from foedus.cli.output import emit, json_option
from foedus.coordinator.backup import backup
from foedus.domain.text import size


@click.command("backup")
@click.argument("target", metavar="DIR", type=PLACE)
@place_options
@blobs_option
@json_option
def command(target: Path, **given: Any) -> None:
    """Write a backup into the new folder DIR, while the coordinator goes on: its database as of now, and its blobs.

    It holds what the coordinator holds, hashed tokens among it: keep it as safe.
    """
    with opened(given) as (_, store, artifacts):
        made = backup(store, artifacts, target, progress("copied"))
    rows = sum(count for count, _ in made.tables.values())
    data = {"folder": str(target), "rows": rows, "blobs": made.blobs, "bytes": made.bytes, "revision": made.revision}
    emit(data, f"backup  {target}\n        {rows} rows, {made.blobs} blobs, {size(made.bytes)}")
