"""Words for people: columns, and no colour where none is wanted."""

from __future__ import annotations

import click
import pytest

from foedus.cli.output import colour, emit, json_option, plain, table
from foedus.engine.json_text import to_json


@click.command()
@json_option
def unwell() -> None:
    emit({"loss": float("inf")}, "unwell", exit_code=1)


def test_a_result_may_have_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert unwell.main([], standalone_mode=False) == 1
    assert capsys.readouterr().out == "unwell\n"


def test_what_is_not_finite_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert unwell.main(["--json"], standalone_mode=False) == 1
    written = capsys.readouterr().out
    assert written == '{"schema_version":1,"status":"error","exit_code":1,"data":{"loss":null}}\n'


def test_json_is_ascii_so_that_no_terminal_obeys_it() -> None:
    assert to_json({"note": "\x9b2Jé"}) == '{"note":"\\u009b2J\\u00e9"}'


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert colour() is False
    monkeypatch.delenv("NO_COLOR")
    assert colour() is None


def test_plain_text_keeps_lines_and_letters() -> None:
    assert plain("é 八\n\tx\r\x07") == "é 八\n\tx??"


def test_columns_line_up_and_no_space_trails() -> None:
    lines = table(["name", "n"], [["long name", 1], ["b", ""]]).splitlines()
    assert lines == ["name       n", "long name  1", "b"]
