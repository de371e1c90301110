"""``foedus coordinator migrate``: the database's schema goes forward to that of this release."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.coordinator_settings import place_options
from foedus.cli.output import emit, json_option
from foedus.coordinator.settings import read_settings
from foedus.domain.errors import ConflictError
from foedus.store.unit_of_work import Store, look_at_schema


@click.command("migrate")
@place_options
@click.option("--check", is_flag=True, help="Change nothing; fail where something is to be done.")
@json_option
def command(config: Path | None, folder: Path | None, database: str | None, check: bool) -> None:
    """Bring the database to this release's schema, in one transaction: killed in the middle, it has changed nothing.

    Take a backup first, and stop replicas of an older release: they do not know the newer schema.
    """
    url = read_settings({"config": config, "folder": folder, "database": database}).database_url
    have, lacking = look_at_schema(url)
    if check and lacking:
        raise ConflictError(
            "schema_older",
            f"The database lacks {', '.join(step.id for step in lacking)} of this foedus' schema.",
            "",
            "Run `foedus coordinator migrate`.",
        )
    if lacking:
        Store(url, migrate=True).close()
    ids = [step.id for step in lacking]
    lines = [f"schema   {have or 'none'}", *(f"applied  {step.id}  {step.title}" for step in lacking)]
    emit({"was": have, "applied": ids}, "\n".join(lines if ids else [*lines, "Nothing is to be done."]))
