"""``foedus coordinator check``: whether all that a coordinator keeps is there and whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from foedus.cli.coordinator_kept import opened, progress
from foedus.cli.coordinator_settings import blobs_option, place_options
from foedus.cli.output import emit, json_option
from foedus.coordinator.integrity import check
from foedus.domain.errors import IntegrityError
from foedus.domain.text import size


@click.command("check")
@place_options
@blobs_option
@json_option
def command(**given: Any) -> None:
    """Read everything once: the database, every blob that is needed, the rounds of each run, and the audit log's chain.

    It ends with exit code 10 where something is wrong. A running coordinator is not disturbed. What is damaged of the
    state of a run that goes on is made again, where what it was made of is there.
    """
    with opened(given) as (_, store, artifacts):
        found = check(store, artifacts, progress("checked"))
    lines = [f"blobs  {found.blobs}, {size(found.bytes)}", f"audit  {found.audit_entries} entries"]
    lines += [f"mended  blob {digest}: it was damaged, and was made again" for digest in found.mended]
    lines += ["All is well."] if not found.problems else [f"wrong  {problem}" for problem in found.problems]
    emit(asdict(found), "\n".join(lines), IntegrityError.exit_code if found.problems else 0)
