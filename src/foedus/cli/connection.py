"""The options with which a person's commands find the coordinator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from foedus.cli.kept_tokens import kept_token
from foedus.cli.options import secret_from_environment
from foedus.client.http import Connection
from foedus.domain.errors import AccessError

LOCAL = "http://127.0.0.1:8470"
Given = ParamSpec("Given")
Result = TypeVar("Result")

coordinator_option = click.option(
    "--coordinator", metavar="URL", envvar="FOEDUS_COORDINATOR", default=LOCAL, show_default=True, show_envvar=True
)


def connected(function: Callable[Concatenate[Connection, Given], Result]) -> Callable[..., Result]:
    """Give a command a connection as its first argument, and the options ``--coordinator`` and ``--token``."""

    @coordinator_option
    @click.option("--token", metavar="TOKEN", help="Your API token; better in FOEDUS_TOKEN or FOEDUS_TOKEN_FILE.")
    @functools.wraps(function)
    def command(*arguments: Any, coordinator: str, token: str | None, **options: Any) -> Result:
        with connect(coordinator, token) as connection:
            return function(connection, *arguments, **options)

    return command


def connect(coordinator: str, token: str | None) -> Connection:
    """A connection to the coordinator at this URL; the token is given, or the environment's, or the last login's.

    Raises:
        AccessError: ``token_missing``, or as :class:`Connection`.
        ConfigError: ``url_malformed``.
    """
    secret = token or secret_from_environment("FOEDUS_TOKEN") or kept_token(coordinator)
    if secret is None:
        raise AccessError(
            "token_missing",
            "There is no API token.",
            "The coordinator has to know who asks.",
            "Log in with `foedus login URL`, or set FOEDUS_TOKEN or FOEDUS_TOKEN_FILE, or give --token; an admin makes "
            "one with `foedus coordinator token create NAME`.",
        )
    return Connection(coordinator, secret)
