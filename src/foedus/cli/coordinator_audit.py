"""``foedus coordinator audit``: who did what, in a log whose entries are chained."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from foedus.cli.connection import connect, connected, coordinator_option
from foedus.cli.output import emit, json_option, table
from foedus.client import audit
from foedus.client.http import Connection
from foedus.wire.audit import AuditEntry, parse_head, show_head

WITHHELD = "(of another organisation)"


@click.group("audit")
def command() -> None:
    """The audit log: who did what. Each entry is chained to the one before."""


@command.command("show")
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries after this number.")
@click.option("--last", type=click.IntRange(1), default=50, show_default=True, help="How many at most, the newest.")
@json_option
@connected
def show(connection: Connection, after: int, last: int) -> None:
    """Show the newest entries."""
    start = max(after, audit.head(connection).seq - last)
    found = list(audit.read(connection, start))[-last:]
    emit({"entries": [_data(entry) for entry in found]}, _table(found))


@command.command("verify")
@click.option("--file", "source", type=click.Path(path_type=Path), help="An export; nothing is asked of a coordinator.")
@click.option("--witness", "witnesses", metavar="SEQ:HASH", multiple=True, help="A head that the log must contain.")
@json_option
@coordinator_option
@click.option("--token", metavar="TOKEN", help="Your API token; better in FOEDUS_TOKEN or FOEDUS_TOKEN_FILE.")
def verify(source: Path | None, witnesses: tuple[str, ...], coordinator: str, token: str | None) -> None:
    """Follow the chain from its first entry to its head, and name the first entry that does not hold."""
    seen = [parse_head(text) for text in witnesses]
    if source is not None:
        verdict = audit.check(audit.load(source), None, seen)
    else:
        with connect(coordinator, token) as connection:
            expected = audit.head(connection)
            verdict = audit.check(audit.read(connection), expected, seen)
    text = f"{verdict.entries} entries hold; the head is {show_head(verdict.head)}"
    emit({"entries": verdict.entries, "head": show_head(verdict.head), "witnesses": len(seen)}, text)


@command.command("export")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@json_option
@connected
def export(connection: Connection, out: Path) -> None:
    """Write the log to a file, a line of JSON for each entry; `verify --file` reads it."""
    count = audit.export(audit.read(connection), out)
    emit({"entries": count, "file": str(out)}, f"{count} entries in {out}")


def _data(entry: AuditEntry) -> dict[str, Any]:
    body = None if entry.text is None else json.loads(entry.text)
    return {"seq": entry.seq, "at": _moment(entry), "hash": entry.hash, "body": body}


def _table(entries: Iterable[AuditEntry]) -> str:
    rows = []
    for entry in entries:
        body = {} if entry.text is None else json.loads(entry.text)
        said = ", ".join(f"{key}={value}" for key, value in sorted(body.get("detail", {}).items()))
        cells = [body.get(key, "") for key in ("actor", "action", "object", "outcome")]
        rows.append([entry.seq, _moment(entry), *(cells if body else [WITHHELD, "", "", ""]), said[:80]])
    return table(["entry", "time (UTC)", "actor", "action", "object", "outcome", "detail"], rows)


def _moment(entry: AuditEntry) -> str:
    return f"{datetime.fromtimestamp(entry.at / 1000, UTC):%Y-%m-%d %H:%M:%S}"
