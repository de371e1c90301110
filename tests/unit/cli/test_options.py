"""Overrides, and secrets from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus.cli.connection import connect
from foedus.cli.options import parse_overrides, parse_sweep, secret_from_environment
from foedus.domain.errors import AccessError, UsageError

URL = "http://127.0.0.1:8470"


def test_paths_on_the_command_line_are_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = parse_overrides(["data.folder=../data", 'data.file="a b.csv"', "time.trace=/traces/t.csv", "name=a/b"])
    assert given == {
        "data.folder": f"{tmp_path}/../data",
        "data.file": f"{tmp_path}/a b.csv",
        "time.trace": "/traces/t.csv",
        "name": "a/b",
    }


def test_a_secret_comes_from_its_variable_before_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from-the-file\n")
    monkeypatch.setenv("FOEDUS_TOKEN_FILE", str(tmp_path / "secret"))
    assert secret_from_environment("FOEDUS_TOKEN") == "from-the-file"
    monkeypatch.setenv("FOEDUS_TOKEN", "from-the-variable")
    assert secret_from_environment("FOEDUS_TOKEN") == "from-the-variable"


def test_a_file_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOEDUS_TOKEN_FILE", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="FOEDUS_TOKEN_FILE") as refused:
        secret_from_environment("FOEDUS_TOKEN")
    assert refused.value.code == "secret_file_unreadable"


def test_without_a_token_nothing_is_sent() -> None:
    with pytest.raises(AccessError) as refused:
        connect(URL, None)
    assert refused.value.code == "token_missing"


def test_a_token_is_not_sent_without_tls() -> None:
    with pytest.raises(AccessError) as refused:
        connect("http://coordinator.example.org", "a-token-of-mine")
    assert refused.value.code == "tls_required"


def test_a_coordinator_that_is_not_there_is_unreachable(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foedus.client.http.Connection.wait", lambda connection, failures: None)
    ran = run("run", "list", "--coordinator", "http://127.0.0.1:9", "--token", "a-token-of-mine", "--json")
    assert (ran.code, ran.envelope["error"]["code"]) == (5, "coordinator_unreachable")


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["a="], ["a=1,,2"], ["a=1,1"], ["seed=1,2"], ["a=1", "a=2"]])
def test_what_is_no_key_with_values_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        parse_sweep(texts)
    assert refused.value.code == "sweep_malformed"


def test_values_are_texts_numbers_and_lists() -> None:
    assert parse_sweep(["a=sgd,adam", "b=1e-3,2", 'c="x,y",z', "d=true,false"]) == {
        "a": ["sgd", "adam"],
        "b": ["1e-3", "2"],
        "c": ['"x', 'y"', "z"],
        "d": ["true", "false"],
    }
    assert parse_sweep(['c="x,y","z"'])["c"] == ['"x,y"', '"z"']
