"""What every command's output has in common: data on stdout, all else on stderr, and one envelope under ``--json``.

The envelope is ``{schema_version, status, exit_code, data | error}``. Errors are three short lines (what, why, fix).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from foedus.domain.errors import FoedusError, StorageError
from foedus.engine.json_text import to_json

SCHEMA_VERSION = 1
INTERRUPTED = 130
JSON = "foedus.json"

Function = TypeVar("Function", bound=Callable[..., Any])


def json_option(function: Function) -> Function:
    """Add ``--json`` to a command; :func:`emit` then writes the envelope."""
    option = click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=_remember, help="Print one JSON object."
    )
    return option(function)


def _remember(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[JSON] = value


def wants_json() -> bool:
    """Whether the command that runs was given ``--json``."""
    return bool(click.get_current_context().meta.get(JSON))


def emit(data: Mapping[str, Any], text: str, exit_code: int = 0) -> None:
    """A command's result: ``data`` under ``--json``, else ``text``. A result can have an exit code of its own."""
    if wants_json():
        status = "error" if exit_code else "ok"
        click.echo(to_json({"schema_version": SCHEMA_VERSION, "status": status, "exit_code": exit_code, "data": data}))
    elif text:
        click.echo(plain(text))
    if exit_code:
        raise click.exceptions.Exit(exit_code)


def plain(text: str) -> str:
    """Text without control characters, which a terminal would obey: much of it was written by others.

    >>> plain("a" + chr(27) + "[2Jb")
    'a?[2Jb'
    """
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def say(message: str) -> None:
    """A line for people, on stderr."""
    click.echo(plain(message), err=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that was asked for by name.

    Raises:
        StorageError: ``file_unwritable``.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        why = error.strerror or ""
        raise StorageError("file_unwritable", f"{path} cannot be written.", why, "Choose another file.") from error


def colour() -> bool | None:
    """What click is to do: no colour under NO_COLOR, else colour on a terminal."""
    return False if os.environ.get("NO_COLOR") else None


def fail(error: FoedusError, as_json: bool) -> int:
    """Tell an error to whoever asked; returns the process's exit code."""
    if debugging():
        traceback.print_exception(error)
    if as_json:
        described = {"code": error.code, "message": error.what, "why": error.why, "fix": error.fix}
        envelope = {"schema_version": SCHEMA_VERSION, "status": "error", "exit_code": error.exit_code}
        click.echo(to_json({**envelope, "error": described}))
        return error.exit_code
    click.secho(plain(f"Error: {_indented(error.what)} [{error.code}]"), err=True, fg="red", color=colour())
    for label, sentence in (("Why", error.why), ("Fix", error.fix)):
        if sentence:
            click.secho(plain(f"  {label}: {_indented(sentence)}"), err=True, color=colour())
    return error.exit_code


def _indented(sentence: str) -> str:
    """A sentence whose lines cannot pass for lines of the command's own."""
    return sentence.replace("\n", "\n       ")


def internal(error: Exception) -> FoedusError:
    """An exception that nobody foresaw, as an error that says how to report it."""
    return FoedusError(
        "internal",
        f"foedus failed in a way that nobody foresaw: {type(error).__name__}: {error}",
        "This is a defect of foedus, not of what you did.",
        "Run it again with FOEDUS_DEBUG=1, and report what it prints together with `foedus version`.",
    )


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get("FOEDUS_DEBUG", "") not in {"", "0"}


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns of text under headers.

    >>> print(table(["name", "examples"], [["c0000", 12], ["c0001", 7]]))
    name   examples
    c0000  12
    c0001  7
    """
    lines = [[str(cell).replace("\n", "?") for cell in row] for row in (headers, *rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(headers))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)
