"""``foedus node data schema``: what runs that align tables would be told of a dataset, for its owner to read."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import examples, home_option
from foedus.cli.output import emit, json_option, table
from foedus.node.drafting import schema
from foedus.node.policy import FILE, read_policy


@click.command("schema", epilog=examples("foedus node data schema site-c"))
@click.argument("name")
@home_option
@json_option
def command(name: str, home: Path) -> None:
    """Print what a run that aligns tables may be told of the dataset NAME: its columns and the classes in them.

    It is told where you have approved the run's plan, and the policy says so.
    """
    columns, leaves = schema(home, name), read_policy(home).leave.schemas
    said = {column: each.model_dump(mode="json") for column, each in columns.items()}
    rows = [
        [column, ", ".join(each.classes) or ("whole numbers" if each.whole else "numbers")]
        for column, each in columns.items()
    ]
    word = "lets this leave" if leaves else "keeps this here"
    text = f"{table(['column', 'classes'], rows)}\nThe policy {word}: {FILE}, [leave] schema = {str(leaves).lower()}."
    emit({"client": name, "columns": said, "leaves": leaves}, text)
