"""Arguments and options that several commands share."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from foedus.domain.errors import UsageError
from foedus.node.settings import node_home

PATHS = frozenset({"data.folder", "data.file", "data.align.loading", "time.trace"})
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


def parse_sweep(texts: Sequence[str]) -> dict[str, list[str]]:
    """``["a.b=1,2"]`` as ``{"a.b": ["1", "2"]}``; values with commas of their own are written as TOML.

    Raises:
        UsageError: ``sweep_malformed``.

    >>> parse_sweep(["strategy.local.lr=0.01,0.1", "x=[1,2],[3]"])
    {'strategy.local.lr': ['0.01', '0.1'], 'x': ['[1,2]', '[3]']}
    """
    options: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key = key.strip()
        found = _values(values)
        if not key or not equals or not all(found) or key == "seed" or key in options or len(set(found)) < len(found):
            raise UsageError(
                "sweep_malformed",
                f"`--sweep {text}` is not a key and its values, each once.",
                "Seeds are given by `--seeds`." if key == "seed" else "",
                "Write it as --sweep strategy.local.lr=0.01,0.1",
            )
        options[key] = found
    return options


def _values(text: str) -> list[str]:
    try:
        values = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        return [value.strip() for value in text.split(",")]
    if any(isinstance(value, (list, str)) for value in values):
        return [json.dumps(value, separators=(",", ":")) for value in values]
    return [value.strip() for value in text.split(",")]


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
