"""``foedus run history``: how the work of a run's clients went, step by step, while it went on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import click

from foedus.cli.connection import connected
from foedus.cli.output import emit, json_option, plain, table, wants_json
from foedus.client import progress, runs
from foedus.client.http import Connection
from foedus.domain.lifecycle import ENDED
from foedus.domain.text import size
from foedus.engine.json_text import to_json
from foedus.wire.progress import EVERY, PAGE, Point, ProgressView

HEADERS = ("time (UTC)", "client", "round", "phase", "step", "values", "cpu", "memory")


@click.command("history")
@click.argument("run")
@click.option("--client", metavar="NAME", help="Of this client only.")
@click.option("--last", type=click.IntRange(1, PAGE), default=20, show_default=True, help="How many reports at most.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until the run has ended.")
@json_option
@connected
def command(connection: Connection, run: str, client: str | None, last: int, follow: bool) -> None:
    """Show how the work of RUN's clients went: losses at every `log_interval` steps, processor time and memory.

    Nodes send this while they work, where their owners' policies let metrics leave.
    """
    found = progress.newest(connection, run, last, client)
    if not follow:
        text = table(HEADERS, _rows(found)) if found else "No node has said how its work goes."
        emit({"reports": [each.model_dump(mode="json") for each in found]}, text)
        return
    for report in _from(connection, run, client, found):
        if wants_json():
            click.echo(to_json(report.model_dump(mode="json")))
            continue
        for line in described(report):
            click.echo(plain(line))


def described(report: ProgressView) -> Iterator[str]:
    """A report in words: a line for each point, and what the plan printed."""
    where = f"{report.client} round {report.round} {report.phase}"
    for point in report.points:
        yield f"{where} step {point.step}/{point.steps}: {_values(point)}"
    yield from (f"{where} printed: {line}" for line in report.lines)


def _from(
    connection: Connection, run: str, client: str | None, found: Iterable[ProgressView]
) -> Iterator[ProgressView]:
    after = 0
    for report in found:
        after = report.id
        yield report
    while True:
        ended = runs.show(connection, run).status in ENDED
        for report in progress.read(connection, run, after, client):
            after = report.id
            yield report
        if ended:
            return
        time.sleep(EVERY)


def _rows(found: Iterable[ProgressView]) -> Iterator[list[object]]:
    for each in found:
        moment = f"{datetime.fromtimestamp(each.at, UTC):%H:%M:%S}"
        used = [f"{each.cpu:.1f} s", size(each.memory)]
        for point in each.points:
            step = f"{point.step}/{point.steps}"
            yield [moment, each.client, each.round, each.phase, step, _values(point), *used]
        for line in each.lines:
            yield [moment, each.client, each.round, each.phase, "", line, *used]


def _values(point: Point) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in point.values.items())
