"""``foedus coordinator gc``: what nothing needs is removed now."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from foedus.cli.coordinator_kept import opened
from foedus.cli.coordinator_settings import blobs_option, place_options
from foedus.cli.output import emit, json_option, say
from foedus.coordinator.retention import collect
from foedus.domain.text import size


@click.command("gc")
@click.option("--grace", type=click.FloatRange(min=0), help="Seconds for which what is not needed stays (a day).")
@place_options
@blobs_option
@json_option
def command(grace: float | None, **given: Any) -> None:
    """Remove blobs that nothing needs: updates that were aggregated, uploads that nobody went on with, leftovers.

    The model of every round stays, and so do updates of runs that keep them. A running coordinator does this by itself.
    """
    with opened(given) as (settings, store, artifacts):
        found = collect(store, artifacts, settings.gc_grace if grace is None else grace)
    if not found.listed:
        say("The storage may not be listed with these credentials: what no row names was not looked for.")
    emit(asdict(found), f"removed  {found.blobs} blobs, {size(found.bytes)}, {found.uploads} unfinished uploads")
