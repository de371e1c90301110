"""The security log: chained lines that survive a power cut, go on over files, and tell what was changed in them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import foedus
from foedus.domain.errors import ConflictError, IntegrityError, StorageError
from foedus.node import formats, security
from foedus.node.security import Event, SecurityLog
from foedus.node.vault import Vault, create_home
from foedus.wire.audit import parse_head, show_head


@pytest.fixture
def log(tmp_path: Path) -> SecurityLog:
    return SecurityLog(tmp_path)


def files(home: Path) -> list[Path]:
    return sorted((home / "audit").glob("*.jsonl"))


def written(log: SecurityLog, count: int) -> None:
    for number in range(count):
        log.append(Event("approved", f"plan {number}", "ä\n", {"number": number}))


def test_f15_each_event_is_one_line_of_json_and_there_are_no_others(log: SecurityLog, tmp_path: Path) -> None:
    written(log, 3)
    (path,) = files(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["subject"], line["seq"]) for line in lines] == [
        ("approved", "plan 0", 1),
        ("approved", "plan 1", 2),
        ("approved", "plan 2", 3),
    ]
    assert [line["previous"] for line in lines[1:]] == [line["hash"] for line in lines[:-1]]
    assert (tmp_path / "audit").stat().st_mode & 0o077 == path.stat().st_mode & 0o077 == 0
    verified = log.verify()
    assert (verified.entries, verified.broken, verified.head.seq) == (3, "", 3)


def test_a_line_that_a_power_cut_tore_is_cut_off_and_the_next_one_says_so(log: SecurityLog, tmp_path: Path) -> None:
    written(log, 2)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[1][:40])
    assert (log.verify().broken, log.verify().torn) == ("", 40)
    assert len(log.newest(10)) == 2
    written(log, 1)
    assert path.read_bytes().startswith(whole)
    assert [entry.event for entry in log.newest(10)] == ["approved", "approved", "log_repaired", "approved"]
    assert log.newest(1, "log_repaired")[0].facts == {"bytes": 40}
    assert (log.verify().broken, log.verify().torn, log.verify().entries) == ("", 0, 4)


def test_a_first_line_that_was_torn_leaves_an_empty_log(log: SecurityLog, tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / f"{1:016d}.jsonl").write_bytes(b'{"seq"')
    written(log, 1)
    assert [(entry.seq, entry.event) for entry in log.newest(9)] == [(1, "log_repaired"), (2, "approved")]
    assert log.verify().broken == ""


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"plan 1", b"plan 7"), *lines[2:]], "line 2: its text was changed"),
        (lambda lines: [lines[0], *lines[2:]], "line 2: entry 2 was expected, and entry 3 came"),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "line 2: entry 2 was expected, and entry 3 came"),
        (lambda lines: [lines[0], b"{}", *lines[1:]], "line 2: it is no entry"),
        (lambda lines: [lines[0], b" " + lines[1], *lines[2:]], "line 2: its text was changed"),
        (lambda lines: lines[1:], "line 1: entry 1 was expected, and entry 2 came"),
    ],
    ids=["changed", "removed", "swapped", "inserted", "spaced", "first"],
)
def test_what_was_changed_is_told_by_its_first_line(log: SecurityLog, tmp_path: Path, change, place) -> None:  # type: ignore[no-untyped-def]
    written(log, 4)
    (path,) = files(tmp_path)
    path.write_bytes(b"\n".join([*change(path.read_bytes().splitlines()), b""]))
    assert log.verify().broken == f"{path.name}, {place}"


def test_a_tail_that_was_removed_is_found_by_a_head_that_was_seen(log: SecurityLog, tmp_path: Path) -> None:
    written(log, 3)
    (path,) = files(tmp_path)
    seen = parse_head(show_head(log.head()))
    assert log.verify(seen).broken == ""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert log.verify().broken == ""
    assert log.verify(seen).broken == "the log ends before entry 3, which was witnessed"
    written(log, 1)
    assert log.verify(seen).broken == f"{path.name}, line 3: it is not the entry that was witnessed"


def test_the_chain_goes_on_over_files_and_the_oldest_go(
    log: SecurityLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "SEGMENT", 700)
    monkeypatch.setattr(security, "KEPT", 3)
    written(log, 2)
    assert (log.verify().first, log.verify().entries) == (1, 2)
    written(log, 18)
    verified, head = log.verify(), log.head()
    assert len(files(tmp_path)) == 3
    assert (verified.broken, verified.head) == ("", head)
    assert verified.first == int(files(tmp_path)[0].stem) > 1
    assert verified.first == log.newest(1, "log_trimmed")[0].facts["first"]
    files(tmp_path)[0].unlink()
    assert log.verify().broken == "entries before the first one are missing"


def test_a_file_in_the_middle_that_is_gone_is_found(
    log: SecurityLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "SEGMENT", 700)
    written(log, 9)
    first, second, third = files(tmp_path)[:3]
    second.unlink()
    assert log.verify().broken.startswith(f"{third.name}, line 1: entry {int(second.stem)} was expected")
    assert log.verify().entries == int(second.stem) - 1 and log.verify().first == int(first.stem)


def test_nothing_is_appended_to_a_last_line_that_is_none(log: SecurityLog, tmp_path: Path) -> None:
    written(log, 1)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes() + b"no entry\n")
    with pytest.raises(IntegrityError) as caught:
        written(log, 1)
    assert caught.value.code == "audit_broken"


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file in its place")
    with pytest.raises(StorageError) as caught:
        SecurityLog(tmp_path).append(Event("approved"))
    assert caught.value.code == "audit_unwritable"


def test_processes_take_turns(log: SecurityLog, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from foedus.node.security import *\n"
        "for n in range(40): SecurityLog(Path(sys.argv[1])).append(Event('approved', sys.argv[2]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), who], env={**os.environ, "PYTHONPATH": "src"})
        for who in ("a", "b")
    ]
    assert [process.wait(240) for process in processes] == [0, 0]
    verified = log.verify()
    assert (verified.entries, verified.broken) == (80, "")


def test_a_home_of_the_release_before_goes_on_and_its_log_becomes_the_new_one(tmp_path: Path) -> None:
    """A vault as release 0.1.0 left it: no format, no facts, the log a table."""
    create_home(tmp_path, "clinic-a")
    with sqlite3.connect(tmp_path / "vault.db") as db:
        db.executescript("DROP TABLE home; ALTER TABLE audit DROP COLUMN facts")
        row = "INSERT INTO audit (at, event, subject, detail) VALUES (?, ?, ?, ?)"
        db.executemany(row, [(float(n), "approved", f"plan {n}", "fine") for n in range(100)])
    db.close()
    for _ in range(2):
        with Vault(tmp_path) as vault:
            assert vault.identity().name == "clinic-a"
            lines = vault.audit()
        assert [line.subject for line in lines] == ["clinic-a", *(f"plan {n}" for n in range(100))]
        assert lines[1].at == "1970-01-01T00:00:00.000000+00:00"
        assert SecurityLog(tmp_path).verify().broken == ""


def test_a_home_of_a_newer_release_is_refused_with_the_release_that_it_needs(tmp_path: Path) -> None:
    create_home(tmp_path, "clinic-a")
    with sqlite3.connect(tmp_path / "vault.db") as db:
        assert db.execute("SELECT format, release FROM home").fetchall() == [(formats.FORMAT, foedus.__version__)]
        db.execute("UPDATE home SET format = 99, release = '7.1.0'")
    db.close()
    with pytest.raises(ConflictError) as caught:
        Vault(tmp_path)
    assert caught.value.code == "home_newer"
    assert "format 99" in caught.value.what and "foedus 7.1.0" in caught.value.fix
