"""Case 43: markup, formulas, escapes and letters that reverse a line, in names, notes, reasons, logs and metrics.

What a terminal, a browser or a spreadsheet would obey is refused where it comes in, or harmless where it goes out.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from foedus.cli import coordinator, run
from foedus.cli.logs import JsonFormatter, TextFormatter
from foedus.cli.output import emit, fail, json_option, say, table
from foedus.domain.errors import ConflictError
from foedus.engine.history import History
from foedus.engine.report import Report, report_html
from foedus.engine.sweep import Ended, Planned, Setting, as_csv, as_html, compared
from tests.unit.coordinator.door import BOOT, Door, code, opened

OBEYED = ["\x1b[2J\x1b[1;1H", "\x9b31m", "\r\nforged", "\u202etxt.exe", "\u2066x\u2069", "\x00", "\x07", "a\u2028b"]
"""What a terminal would obey, or read in another order than it stands."""

MARKUP = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)", "{{7*7}}", "${x}"]
FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", '=HYPERLINK("http://x")', "\t=1"]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("coordinator")) as made:
        yield made


@click.command("hostile")
@click.argument("text")
@json_option
def hostile(text: str) -> None:
    say(text.replace("\n", " "))
    emit({"text": text}, table(["a", "b"], [[text, 1]]))


@pytest.mark.parametrize("text", OBEYED)
def test_case_43_nothing_that_a_terminal_obeys_gets_out_of_a_command(text: str) -> None:
    for arguments in ([text], ["--json", text]):
        shown = CliRunner().invoke(hostile, ["--", *arguments] if arguments[0] == text else ["--json", "--", text])
        assert shown.exit_code == 0
        assert _harmless(shown.output), shown.output


@pytest.mark.parametrize("text", OBEYED)
def test_case_43_nor_out_of_an_error_or_a_log(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    fail(ConflictError("name_taken", f"The name {text} is taken.", text, text), as_json=False)
    fail(ConflictError("name_taken", f"The name {text} is taken.", text, text), as_json=True)
    out = capsys.readouterr()
    record = logging.LogRecord("foedus", logging.INFO, "", 1, "peer said %s", (text,), None)
    for shown in (out.out, out.err, TextFormatter().format(record), JsonFormatter().format(record)):
        assert _harmless(shown), shown


@pytest.mark.parametrize("text", [*OBEYED, *MARKUP, *FORMULAS])
def test_case_43_no_name_is_any_of_it(text: str, door: Door) -> None:
    headers = {"Idempotency-Key": "k" * 12}
    dataset = {"client": text, "tags": [], "examples": 1}
    node = door.enrol(f"n-{abs(hash(text))}")
    for path, body in (
        ("/orgs", {"name": text}),
        ("/users", {"name": text, "roles": ["admin"]}),
        ("/tokens", {"name": text}),
    ):
        assert code(door.ask("POST", path, json=body, headers=headers)) == "message_malformed"
    for body in ({"datasets": [dataset]}, {"datasets": [{**dataset, "client": "c", "tags": [text]}]}):
        hello = json.dumps({"boot": BOOT, "version": "1", **body}).encode()
        assert code(door.signed(node, "POST", "/node/hello", hello)) == "message_malformed"
    assert code(door.join(node, text)) == "message_malformed"


@pytest.mark.parametrize("text", OBEYED)
def test_case_43_no_note_and_no_version_is_what_a_terminal_obeys(text: str, door: Door) -> None:
    node = door.enrol(f"v-{abs(hash(text))}")
    note = {"digest": "a" * 64, "state": "rejected", "note": text}
    for body in ({"version": text}, {"version": "1", "approvals": [note]}):
        reply = door.signed(node, "POST", "/node/hello", json.dumps({"boot": BOOT, **body}).encode())
        assert code(reply) == "message_malformed"


@pytest.mark.parametrize("text", [*MARKUP, *FORMULAS[:-1]])
def test_case_43_what_is_text_to_people_is_kept_as_it_is_and_shown_as_text(text: str, door: Door) -> None:
    node = door.enrol(f"t-{abs(hash(text))}")
    hello = {"boot": BOOT, "version": text[:64], "approvals": [{"digest": "a" * 64, "state": "rejected", "note": text}]}
    assert door.signed(node, "POST", "/node/hello", json.dumps(hello).encode()).status_code == 200
    reply = door.ask("GET", "/nodes")
    assert reply.headers["content-type"] == "application/json"
    assert text[:64] in {view["version"] for view in reply.json()["nodes"]}
    arguments = ["--coordinator", door.url, "--token", door.token]
    for shown in (
        CliRunner().invoke(coordinator.command, ["nodes", *arguments]),
        CliRunner().invoke(coordinator.command, ["audit", "show", *arguments]),
        CliRunner().invoke(run.command, ["list", *arguments]),
    ):
        assert shown.exit_code == 0 and _harmless(shown.output), shown.output


@pytest.mark.parametrize("text", [*MARKUP, *FORMULAS])
def test_case_43_pages_escape_it_and_tables_for_spreadsheets_hold_no_formula(text: str) -> None:
    ended = [Ended(Planned(text, Setting(text, {text: text}), 1), text, {text: 0.5}, error=text)]
    report = report_html(Report(text, text, {text: text}, History([]), [(text, 0.5)], text, [text]))
    for page in (as_html(text, compared(ended, text, "max"), ended, text), report):
        for tag in ("<script", "<img"):
            assert tag not in page
    for row in csv.reader(as_csv(ended).splitlines()):
        assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t"))], row


def test_case_43_metrics_for_prometheus_have_no_label_of_a_stranger_s(door: Door) -> None:
    for text in ('x\ny{a="b"} 1', *MARKUP):
        door.ask("GET", "/runs/" + "".join(f"%{byte:02x}" for byte in text.encode()))
        door.client.request("GET", door.url + "/metrics", headers={"X-Request-Id": "evil-label"})
    exposed = door.client.get(f"{door.url}/metrics").text
    assert "alert(1)" not in exposed and "evil-label" not in exposed and 'y{a="b"}' not in exposed


def _harmless(text: str) -> bool:
    return all(letter.isprintable() or letter in "\n\t" for letter in text) and "\nforged" not in text
