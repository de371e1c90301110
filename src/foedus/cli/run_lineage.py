"""``foedus run lineage``: where a model of a run comes from."""

from __future__ import annotations

import click

from foedus.cli.connection import connected
from foedus.cli.output import emit, json_option, table
from foedus.client import runs
from foedus.client.http import Connection
from foedus.wire.lineage import Lineage


@click.command("lineage")
@click.argument("run")
@click.argument("round_number", metavar="ROUND", type=click.IntRange(min=0))
@json_option
@connected
def command(connection: Connection, run: str, round_number: int) -> None:
    """Show where the model of RUN after ROUND comes from: its parent, who contributed what, plan, strategy, author."""
    found = runs.lineage(connection, run, round_number)
    emit(found.model_dump(mode="json"), describe(found))


def describe(found: Lineage) -> str:
    """A model's descent, in words."""
    parent = f"round {found.parent.round}, {found.parent.model_digest}" if found.parent else "none: the initial model"
    lines = [
        f"model     round {found.model.round}, {found.model.model_digest}",
        f"parent    {parent}",
        f"plan      {found.plan}",
        f"strategy  {found.strategy}, seed {found.seed}",
        f"author    {found.author}, {found.submitted_at:%Y-%m-%d %H:%M} UTC",
    ]
    if found.failed:
        lines.append(f"failed    {', '.join(found.failed)}")
    rows = [
        [one.client, one.phase, *(f"{name} {value:g}" for name, value in one.weights.items()), one.update]
        for one in found.contributions
    ]
    names = [f"weight {at}" if at else "weight" for at in range(max((len(row) - 3 for row in rows), default=0))]
    return "\n".join([*lines, *(["", table(["client", "phase", *names, "update"], rows)] if rows else [])])
