"""Logs: one line each, what it is about in it, no secret and nothing that a terminal obeys."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from foedus.cli.logs import JsonFormatter, TextFormatter, without_secrets
from foedus.domain.spans import span
from foedus.wire.signing import new_secret


def _record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("foedus.coordinator", logging.WARNING, "", 1, message, arguments, None)


def test_a_line_of_json_says_what_it_is_about() -> None:
    with span("request", request="0123456789abcdef", route="GET /x"), span("round", run="run_1", round=3, node="nd_2"):
        line = JsonFormatter().format(_record("phase %s\nwas abandoned", "train"))
    assert "\n" not in line
    row = json.loads(line)
    assert row.pop("at").endswith("+00:00")
    assert row == {
        "level": "warning",
        "logger": "foedus.coordinator",
        "message": "phase train\nwas abandoned",
        "request": "0123456789abcdef",
        "run": "run_1",
        "round": 3,
        "node": "nd_2",
    }


def test_an_error_is_one_line_of_json_with_its_traceback() -> None:
    try:
        raise ZeroDivisionError("no")
    except ZeroDivisionError:
        record = _record("it failed")
        record.exc_info = sys.exc_info()
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ZeroDivisionError: no" in json.loads(line)["error"]


def test_a_line_of_text_has_nothing_that_a_terminal_obeys() -> None:
    with span("run", run="run_1"):
        line = TextFormatter("%(message)s").format(_record("the run %s ended", "\x1b[2J\x9b1A"))
    assert line == "the run ?[2J?1A ended run=run_1"


@pytest.mark.parametrize(
    "secret",
    [
        new_secret("fdp"),
        new_secret("fdj"),
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbmEifQ.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg",
    ],
    ids=["token", "join token", "login"],
)
def test_no_secret_is_logged(secret: str) -> None:
    for formatter in (JsonFormatter(), TextFormatter("%(message)s")):
        assert secret not in formatter.format(_record("refused: Authorization: Bearer %s", secret))


def test_a_password_in_a_url_is_not_logged_and_the_rest_stays() -> None:
    assert without_secrets("postgresql+psycopg://ana:se%2Fcret@db:5432/x") == "postgresql+psycopg://ana:…@db:5432/x"
    assert without_secrets("https://coordinator.example:8470/api/v1/runs") == (
        "https://coordinator.example:8470/api/v1/runs"
    )


COMMAND = """
import logging, click
from foedus.cli.logs import log_options, start_logging
@click.command()
@log_options
def command():
    start_logging()
    for level in ("debug", "info", "error"):
        getattr(logging.getLogger("foedus.x"), level)(level)
    logging.getLogger("uvicorn").info("chatter")
command()
"""


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ([], ["info", "error"]),
        (["--log-level", "error"], ["error"]),
        (["--log-level", "debug"], ["debug", "info", "error"]),
    ],
)
def test_the_options_decide_what_is_logged_and_how(arguments: list[str], messages: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COMMAND, "--log-format", "json", *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": "src"},
        timeout=240,
        check=True,
    )
    assert [json.loads(line)["message"] for line in ran.stderr.splitlines()] == messages
    assert ran.stdout == ""
