"""``foedus node loading``: the loading plans that a node's owner keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import tomli_w

from foedus.cli.options import examples, home_option
from foedus.cli.output import emit, json_option, table
from foedus.data.loading_plan import LoadingPlan, read_loading_plan
from foedus.node.loadings import KeptPlan, forget, keep, listed, show


@click.group("loading")
def command() -> None:
    """Loading plans: how a file of this site's becomes the columns that a training plan expects. They stay here."""


@command.command("add", epilog=examples("foedus node loading add cleveland.toml"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@home_option
@json_option
def add(file: Path, home: Path) -> None:
    """Keep the loading plan in FILE (TOML) under the name that it has."""
    kept = keep(home, read_loading_plan(file))
    emit(_plain(kept), _table((kept,)))


@command.command("list")
@home_option
@json_option
def list_command(home: Path) -> None:
    """List the loading plans, and the datasets that are read by each."""
    plans = listed(home)
    emit({"loadings": [_plain(each) for each in plans]}, _table(plans) if plans else "No loading plan is kept here.")


@command.command("show")
@click.argument("name")
@home_option
@json_option
def show_command(name: str, home: Path) -> None:
    """Print the loading plan NAME as TOML; what it leaves to foedus is left out."""
    kept = show(home, name)
    emit(_plain(kept), f"# {kept.digest}\n{_toml(kept.plan)}")


@command.command("remove")
@click.argument("name")
@home_option
@json_option
def remove(name: str, home: Path) -> None:
    """Forget the loading plan NAME, by which no dataset is read any more."""
    forget(home, name)
    emit({"removed": name}, f"{name} is not kept any more.")


def _table(plans: tuple[KeptPlan, ...]) -> str:
    rows = [[each.name, each.digest[:12], len(each.plan.columns), ",".join(each.datasets)] for each in plans]
    return table(["name", "digest", "columns", "datasets"], rows)


def _plain(kept: KeptPlan) -> dict[str, Any]:
    return {**vars(kept), "datasets": list(kept.datasets)}


def _toml(plan: LoadingPlan) -> str:
    return tomli_w.dumps(plan.model_dump(mode="json", by_alias=True, exclude_defaults=True)).rstrip()
