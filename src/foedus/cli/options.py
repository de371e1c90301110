"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from foedus.domain.errors import UsageError
from foedus.node.settings import node_home

PATHS = frozenset({"data.folder", "data.file", "time.trace"})
"""Keys of run.toml whose values are paths; in the file they are relative to it."""

Function = TypeVar("Function", bound=Callable[..., Any])

run_argument = click.argument("run_toml", metavar="RUN.toml", type=click.Path(path_type=Path))
out_option = click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The run's folder.")
set_option = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of RUN.toml, as strategy.local.lr=0.05.",
)


@dataclass(frozen=True)
class How:
    """How a simulation is to be computed. None of it decides what is learnt, but for the kernel."""

    kernel: str
    executor: str
    workers: int | None
    device: str
    debug: bool
    profile: bool


def examples(*lines: str) -> str:
    """An epilog with examples, one per line."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
    """``("a.b=c",)`` as ``{"a.b": "c"}``; a path is relative to the current folder, as all on the command line are.

    Raises:
        UsageError: ``override_malformed``.

    >>> parse_overrides(["strategy.local.lr=0.05"])
    {'strategy.local.lr': '0.05'}
    """
    pairs = [text.partition("=") for text in texts]
    for key, equals, _ in pairs:
        if not key.strip() or not equals:
            raise UsageError(
                "override_malformed", f"`--set {key}{equals}` sets nothing.", "", "Write it as --set rounds=5."
            )
    return {key.strip(): _from_here(value) if key.strip() in PATHS else value for key, _, value in pairs}


def _from_here(text: str) -> str:
    return str(Path(text.strip("\"'")).expanduser().absolute())


def secret_from_environment(name: str) -> str | None:
    """The secret in the variable ``name``, or in the file that ``name``_FILE names.

    Raises:
        UsageError: ``secret_file_unreadable``.
    """
    if value := os.environ.get(name):
        return value
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = f"The file that {name}_FILE names cannot be read as text."
        raise UsageError("secret_file_unreadable", f"{name}_FILE is of no use.", why, "Correct the path.") from error


def home_option(function: Function) -> Function:
    """Add ``--home``, the node's home: given, or from the environment, or in the user's data folder."""
    option = click.option(
        "--home",
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        callback=lambda _context, _parameter, given: node_home(given),
        help="The node's home (FOEDUS_NODE_HOME).",
    )
    return option(function)
