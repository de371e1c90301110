"""``foedus node logs``: what a node said, and what the work in it printed. Free of torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import click

from foedus.cli.node_service import LOG
from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option, plain, wants_json
from foedus.engine.json_text import to_json
from foedus.node.vault import Vault

WORK = Path("logs") / "work.log"
TAIL = 4 << 20
"""Bytes of a log in which its last lines are looked for."""

LOOK = 0.5
"""Seconds between two looks for more."""


@click.command("logs")
@click.option("--work", is_flag=True, help="What plans printed while they worked, in place of the node's own log.")
@click.option("--lines", type=click.IntRange(0, 100_000), default=50, show_default=True, help="How many at most.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@home_option
@json_option
def command(work: bool, lines: int, follow: bool, home: Path) -> None:
    """Show the end of the node's log. It never leaves this machine unless the policy says so."""
    with Vault(home):
        path = home / (WORK if work else LOG)
    found = _last(path, lines)
    if not follow:
        emit({"lines": found}, "\n".join(found) or "Nothing was logged yet.")
        return
    for line in found:
        _say(line)
    for line in _more(path):
        _say(line)


def _say(line: str) -> None:
    click.echo(to_json({"line": line}) if wants_json() else plain(line))


def _last(path: Path, lines: int) -> list[str]:
    """The last lines of the log and, where it has too few, of the file before it."""
    content = b""
    for each in (path.with_name(f"{path.name}.1"), path):
        if each.is_file():
            with each.open("rb") as file:
                file.seek(max(0, each.stat().st_size - TAIL))
                content += file.read()
    return content.decode("utf-8", "replace").splitlines()[-lines:] if lines else []


def _more(path: Path) -> Iterator[str]:
    """Lines as they are written, also when the log goes on in another file; for ever."""
    file, rest = (path.open("rb") if path.is_file() else None), b""
    if file is not None:
        file.seek(0, 2)
    while True:
        if file is not None:
            rest += file.read()
            *whole, rest = rest.split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)
        time.sleep(LOOK)
        there = path.stat() if path.is_file() else None
        if there and (file is None or os.fstat(file.fileno()).st_ino != there.st_ino):
            if file is not None:
                yield from ((rest + file.read()).decode("utf-8", "replace").splitlines())
                file.close()
            file, rest = path.open("rb"), b""
