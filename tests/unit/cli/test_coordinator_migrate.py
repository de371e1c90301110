"""``foedus coordinator migrate`` shows what a database lacks, and applies it; ``--check`` only says so."""

from __future__ import annotations

from typing import Any

import pytest

from foedus.store.migrations.forward import revisions

IDS = [step.id for step in revisions()]
MIGRATE = ("coordinator", "migrate", "--json")


def test_it_shows_checks_and_applies(run: Any, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOEDUS_COORDINATOR_DATABASE", database_url)
    checked = run(*MIGRATE, "--check")
    assert checked.code == 7, checked
    assert checked.envelope["error"]["code"] == "schema_older"
    applied = run(*MIGRATE)
    assert applied.code == 0, applied
    assert applied.envelope["data"] == {"was": None, "applied": IDS}
    assert run(*MIGRATE, "--check").envelope["data"] == {"was": IDS[-1], "applied": []}


def test_a_url_is_refused_without_being_shown(run: Any) -> None:
    refused = run(*MIGRATE, "--database", "mysql://u:secret@h/n")
    assert (refused.code, refused.envelope["error"]["code"]) == (3, "database_url")
    assert "secret" not in refused.out + refused.err
