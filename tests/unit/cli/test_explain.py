"""``foedus explain`` prints the page of a code, lists all, and helps with a slip."""

from __future__ import annotations

import json

import pytest

from foedus.cli.main import execute


def test_a_code_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", "round_closed"]) == 0
    shown = capsys.readouterr().out
    assert "Why:" in shown and "Fix:" in shown
    assert "RoundClosedError: exit code 7, HTTP status 410" in shown


def test_every_code_is_listed_and_json_has_the_whole_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", "--json"]) == 0
    codes = json.loads(capsys.readouterr().out)["data"]["codes"]
    assert len(codes) > 150
    assert {"code", "kinds", "means", "why", "fix"} == set(codes[0])


def test_a_slip_is_told_the_nearest_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", "round_closd"]) == 6
    assert "Did you mean `round_closed`?" in capsys.readouterr().err
