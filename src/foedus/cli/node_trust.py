"""``foedus node trust``: authors whose signature of a plan approves it here. Free of torch."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option, table
from foedus.cli.scope_options import scope_options
from foedus.node import owner
from foedus.node.grants import Signer
from foedus.node.scope import Scope, in_words


@click.group("trust")
def command() -> None:
    """Authors whose signed plans run here unread; nobody is trusted unless the owner says so."""


@command.command("add")
@click.argument("name")
@click.argument("key")
@scope_options
@home_option
@json_option
def add(name: str, key: str, scope: Scope, home: Path) -> None:
    """Trust NAME, whose public KEY `foedus plan key` has shown, as far as the options say."""
    made = owner.trust_author(home, name, key, scope)
    emit(_data(made), f"{made.name} is trusted: {made.fingerprint}{_bounds(made)}")


@command.command("list")
@home_option
@json_option
def list_command(home: Path) -> None:
    """List the authors who are trusted."""
    found = owner.list_authors(home)
    rows = [[one.name, one.fingerprint, ", ".join(in_words(one.scope)) or "everything"] for one in found]
    text = table(["name", "fingerprint", "for"], rows) if rows else "Nobody is trusted: the owner reads every plan."
    emit({"authors": [_data(one) for one in found]}, text)


@command.command("remove")
@click.argument("name")
@home_option
@json_option
def remove(name: str, home: Path) -> None:
    """Trust NAME no longer; what their signature approved is revoked."""
    gone = owner.distrust_author(home, name)
    emit(_data(gone), f"{gone.name} is trusted no longer")


def _data(one: Signer) -> dict[str, object]:
    return {
        "name": one.name,
        "key": one.key,
        "fingerprint": one.fingerprint,
        "scope": one.scope.model_dump(mode="json"),
    }


def _bounds(one: Signer) -> str:
    words = in_words(one.scope)
    return f", for {', '.join(words)}" if words else ""
