"""Logs of the processes that stay: one line each on stderr, as text or JSON, without secrets and control characters.

A line carries what the work around it is about (request, run, round, node …; see :mod:`foedus.domain.spans`).
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from foedus.cli.output import plain
from foedus.domain.spans import about

FORMAT, LEVEL = "foedus.log_format", "foedus.log_level"
LEVELS = ("info", "debug", "warning", "error")
FORMATS = ("text", "json")

SECRET = re.compile(
    r"\b(fd[a-z]{1,4}_)[0-9a-f]{16,}"  # our own tokens
    r"|\b(eyJ)[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?"  # JSON Web Tokens
    r"|(://[^/\s:@]*:)[^/\s@]+(?=@)"  # passwords in URLs
)

Function = TypeVar("Function", bound=Callable[..., Any])


def without_secrets(text: str) -> str:
    """The text with tokens and passwords cut out, however they came into it.

    >>> without_secrets("postgresql://ana:geheim@db/foedus refuses fdp_0123456789abcdef0123")
    'postgresql://ana:…@db/foedus refuses fdp_…'
    """
    return SECRET.sub(lambda found: f"{next(filter(None, found.groups()))}…", text)


class TextFormatter(logging.Formatter):
    """A line for people: when, how grave, what, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; a traceback follows on lines of its own."""
        fields = "".join(f" {key}={value}" for key, value in about().items())
        return plain(without_secrets(f"{super().format(record)}{fields if not record.exc_info else ''}"))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message on one line: what a peer said cannot pass for a line of its own."""
        return super().formatMessage(record).replace("\n", "\\n")


class JsonFormatter(logging.Formatter):
    """A JSON object on one line, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; a traceback is in ``error``."""
        row: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **about(),
        }
        if record.exc_info:
            row["error"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(row, ensure_ascii=True))


def log_options(function: Function) -> Function:
    """Add ``--log-format`` and ``--log-level``; :func:`start_logging` then does as they say."""
    for name, variable, choices, key, text in (
        ("--log-level", "FOEDUS_LOG_LEVEL", LEVELS, LEVEL, "What is logged: this, and what is graver."),
        ("--log-format", "FOEDUS_LOG_FORMAT", FORMATS, FORMAT, "Lines for people, or one JSON object per line."),
    ):
        function = click.option(
            name,
            type=click.Choice(choices),
            default=choices[0],
            show_default=True,
            envvar=variable,
            show_envvar=True,
            expose_value=False,
            callback=_remember(key),
            help=text,
        )(function)
    return function


def _remember(key: str) -> Callable[[click.Context, click.Parameter, str], None]:
    def remember(context: click.Context, _: click.Parameter, value: str) -> None:
        context.meta[key] = value

    return remember


def start_logging() -> None:
    """Have what this process logs on stderr, as the command's options say. Libraries speak only when it is grave."""
    meta = click.get_current_context().meta
    line = TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if meta[FORMAT] == "json" else line)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("foedus").setLevel(meta[LEVEL].upper())
