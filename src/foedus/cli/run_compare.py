"""``foedus run compare``: the folders of runs beside one another."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import examples
from foedus.cli.output import emit, json_option, say, table, write_file
from foedus.domain.errors import UsageError
from foedus.engine.compare import (
    comparison,
    comparison_html,
    comparison_rows,
    difference_rows,
    goal_of,
    labels,
    read_run,
)


@click.command("compare", epilog=examples("foedus run compare runs/a runs/b --html compare.html"))
@click.argument("folders", metavar="FOLDER FOLDER …", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--goal", metavar="METRIC=VALUE", help="Count the rounds to this, as test/accuracy=0.9.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with the curves.")
@json_option
def command(folders: tuple[Path, ...], goal: str | None, page: Path | None) -> None:
    """Compare runs by their folders: metrics, rounds, time, bytes, models, and what was asked for differently."""
    if len(folders) < 2:
        raise UsageError("one_run", "One run cannot be compared.", "", "Name two folders or more.")
    runs = [read_run(path, label) for path, label in zip(folders, labels(folders), strict=True)]
    wanted = goal_of(runs, _parsed(goal) if goal else None)
    if page is not None:
        write_file(page, comparison_html(runs, wanted).encode())
        say(f"page {page}")
    names, found = [run.label for run in runs], comparison(runs, wanted)
    rows = difference_rows(runs)
    same = "The models are the same, bit for bit." if found["same_model"] else "The models differ."
    differs = table(["run.toml", *names], rows) if rows else "All were asked for the same."
    emit(found, f"{table(['', *names], comparison_rows(runs, wanted))}\n\n{same}\n\n{differs}")


def _parsed(text: str) -> tuple[str, float]:
    metric, _, value = text.rpartition("=")
    try:
        return metric, float(value)
    except ValueError as error:
        raise UsageError(
            "goal_malformed", f"`--goal {text}` names no goal.", "", "Write it as --goal test/accuracy=0.9."
        ) from error
