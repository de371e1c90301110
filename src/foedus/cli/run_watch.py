"""``foedus run watch``: follow a live run, and keep its folder."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.connection import connected
from foedus.cli.live import watch
from foedus.cli.options import out_option
from foedus.cli.output import emit, json_option, say
from foedus.client.http import Connection
from foedus.engine.prepare import Prepared
from foedus.engine.results import last_words


@click.command("watch")
@click.argument("run")
@out_option
@json_option
@connected
def command(connection: Connection, run: str, out: Path | None) -> None:
    """Follow RUN to its end, and keep its folder. Ctrl-C ends the watching; the run goes on."""
    watch_and_tell(connection, run, out, None)


def watch_and_tell(connection: Connection, run: str, out: Path | None, prepared: Prepared | None) -> None:
    """Follow a run, and say what it came to, or how to take it up again."""
    try:
        summary = watch(connection, run, out, prepared)
    except KeyboardInterrupt:
        say(f"The run goes on. `foedus run watch {run}` takes it up again, `foedus run cancel {run}` ends it.")
        raise
    emit(summary, last_words(summary, Path(str(summary["folder"]))))
