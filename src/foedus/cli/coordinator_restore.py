"""``foedus coordinator restore``: a backup becomes a coordinator again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foedus.cli.coordinator_kept import opened, progress
from foedus.cli.coordinator_settings import PLACE, blobs_option, place_options
from foedus.cli.output import emit, json_option
from foedus.coordinator.backup import restore
from foedus.domain.text import size


@click.command("restore")
@click.argument("source", metavar="DIR", type=PLACE)
@place_options
@blobs_option
@json_option
def command(source: Path, **given: Any) -> None:
    """Bring the backup in DIR into a new --folder or --database (and --blobs), of the same kind as before or another.

    Runs go on from where they stood; nodes whose clients are ahead of that begin with a fresh client state.
    """
    with opened(given, fresh=True) as (settings, store, artifacts):
        found = restore(store, artifacts, source, progress("restored"))
    rows = sum(count for count, _ in found.tables.values())
    data = {"folder": str(settings.folder), "rows": rows, "blobs": found.blobs, "bytes": found.bytes}
    emit(data, f"restored  {rows} rows, {found.blobs} blobs, {size(found.bytes)}, as of {found.release}")
