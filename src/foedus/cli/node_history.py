"""``foedus node history``: what ran on a node, as its security log has it. Free of torch."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import click

from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option, table
from foedus.node.acts import ENDED, REFUSED
from foedus.node.security import Entry
from foedus.node.vault import Vault

NAMES = ("run", "round", "phase", "client", "plan", "outcome", "code", "seconds")


@click.command("history")
@click.option("--run", "wanted", metavar="RUN", help="Only of this run.")
@click.option("--last", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at most.")
@home_option
@json_option
def command(wanted: str | None, last: int, home: Path) -> None:
    """List the newest work that runs asked for here, the newest last: what it came to, and how long it took."""
    with Vault(home) as vault:
        lines = vault.security.backwards(ENDED, REFUSED)
        found = islice((each for each in lines if each.facts and wanted in (None, each.facts.get("run"))), last)
        told = [_told(each) for each in found][::-1]
    rows = [[each["at"][:19], *(_cell(each, name) for name in NAMES)] for each in told]
    text = table(["time (UTC)", *NAMES], rows) if rows else "Nothing has run here yet."
    emit({"work": told}, text)


def _told(entry: Entry) -> dict[str, Any]:
    return {"at": entry.at, **{name: entry.facts.get(name) for name in NAMES}}


def _cell(told: dict[str, Any], name: str) -> object:
    value = told[name]
    if value is None:
        return ""
    return str(value)[:12] if name == "plan" else value
