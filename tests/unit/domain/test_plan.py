"""A plan's bundle: its digest covers every byte, and nothing malformed gets through."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from foedus.domain.errors import PlanError, TooLargeError
from foedus.domain.plan import BUNDLE_LIMIT, PlanBundle, parse_bundle, read_bundle


def test_the_digest_is_the_one_that_is_documented() -> None:
    content = b"x = 1\n"
    manifest = json.dumps([["plan.py", 6, hashlib.sha256(content).hexdigest()]], separators=(",", ":"))
    assert PlanBundle({"plan.py": content}, "plan.py").digest == hashlib.sha256(manifest.encode()).hexdigest()


def test_one_changed_byte_is_another_plan() -> None:
    digests = {PlanBundle({"plan.py": content}, "plan.py").digest for content in (b"x=1", b"x=1 ", b"x=2", b"#x=1")}
    assert len(digests) == 4


def test_a_file_brings_lock_and_options_and_nothing_else(tmp_path: Path) -> None:
    for name in ("plan.py", "lock", "options.json", "run.toml", "notes.txt"):
        (tmp_path / name).write_text(name)
    assert sorted(read_bundle(tmp_path / "plan.py").files) == ["lock", "options.json", "plan.py"]


def test_case_55_the_digest_covers_the_options_schema_the_lock_and_every_other_file(tmp_path: Path) -> None:
    texts = {"plan.py": "x = 1\n", "lock": "torch==2.13.0\n", "options.json": "{}"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    seen = {read_bundle(tmp_path / "plan.py").digest}
    for name, changed in (
        ("lock", "torch==2.13.1\n"),
        ("lock", ""),
        ("options.json", "{} "),
        ("plan.py", "x = 1 \n"),
        ("plan.py", "x = 1  # one\n"),
        ("plan.py", "\u0445 = 1\n"),
        ("plan.py", "x = 1\r\n"),
    ):
        (tmp_path / name).write_text(changed, newline="")
        seen.add(read_bundle(tmp_path / "plan.py").digest)
        (tmp_path / name).write_text(texts[name])
    (tmp_path / "lock").unlink()
    seen.add(read_bundle(tmp_path / "plan.py").digest)
    (tmp_path / "more.py").write_text("")
    seen.add(read_bundle(tmp_path).digest)
    assert len(seen) == 10


def test_a_directory_brings_everything_but_caches_and_dot_files(tmp_path: Path) -> None:
    for name in ("plan.py", "net/layers.py", "__pycache__/plan.pyc", ".git/config", "net/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    bundle = read_bundle(tmp_path)
    assert sorted(bundle.files) == ["net/layers.py", "plan.py"]
    assert parse_bundle(bundle.to_bytes()) == bundle


def test_a_missing_plan_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as refusal:
        read_bundle(tmp_path / "plan.py")
    assert refusal.value.code == "plan_missing"
    assert "foedus new" in refusal.value.fix


def test_a_plan_with_data_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.py").write_bytes(b"#" * (BUNDLE_LIMIT + 1))
    with pytest.raises(TooLargeError) as refusal:
        read_bundle(tmp_path / "plan.py")
    assert refusal.value.code == "plan_too_large"


def _bundle(files: dict[str, str], entry: object = "plan.py") -> bytes:
    return json.dumps({"entry": entry, "files": files}).encode()


CODE = base64.b64encode(b"x = 1").decode()
MALFORMED = {
    "not JSON": b"\x80\x04K\x01.",
    "a list": b"[]",
    "no entry": _bundle({"plan.py": CODE}, "other.py"),
    "entry is a list": _bundle({"plan.py": CODE}, []),
    "not base64": _bundle({"plan.py": "%%%"}),
    "a parent folder": _bundle({"plan.py": CODE, "../evil.py": CODE}),
    "an absolute path": _bundle({"plan.py": CODE, "/etc/passwd": CODE}),
    "a backslash": _bundle({"plan.py": CODE, "a\\b.py": CODE}),
    "a control character": _bundle({"plan.py": CODE, "a\nb.py": CODE}),
    "a name of 10 kB": _bundle({"plan.py": CODE, "a" * 10_000: CODE}),
    "an empty part": _bundle({"plan.py": CODE, "a//b.py": CODE}),
    "a file that is a folder": _bundle({"plan.py": CODE, "a": CODE, "a/b.py": CODE}),
    "a folder that is a file": _bundle({"plan.py": CODE, "A/b.py": CODE, "a": CODE}),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_bundle_is_refused(content: bytes) -> None:
    with pytest.raises(PlanError) as refusal:
        parse_bundle(content)
    assert refusal.value.code == "plan_malformed"


def _canonical(files: dict[str, str], entry: str) -> bytes:
    return json.dumps({"entry": entry, "files": files}, separators=(",", ":"), sort_keys=True).encode()


def test_the_entry_follows_from_the_files_so_that_a_digest_runs_one_file() -> None:
    other = base64.b64encode(b"y = 2").decode()
    both = {"other.py": other, "plan.py": CODE}
    assert parse_bundle(_canonical(both, "plan.py")).entry == "plan.py"
    assert parse_bundle(_canonical({"lock": other, "net.py": CODE}, "net.py")).entry == "net.py"
    assert parse_bundle(_canonical({"plan.json": other, "work.sh": CODE}, "plan.json")).entry == "plan.json"
    assert parse_bundle(_canonical({"plan.json": other, "plan.py": CODE}, "plan.py")).entry == "plan.py"
    for files, entry in (
        (both, "other.py"),
        ({"lock": other, "net.py": CODE}, "lock"),
        ({"a.py": CODE, "b.py": CODE}, "a.py"),
    ):
        with pytest.raises(PlanError) as refusal:
            parse_bundle(_canonical(files, entry))
        assert refusal.value.code == "plan_malformed"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + b" ",
        lambda text: text.replace(b'"files":{', b'"files":{"plan.py":"",'),
        lambda text: text.replace(b'"entry":"plan.py",', b"")[:-1] + b',"entry":"plan.py"}',
    ],
    ids=["whitespace", "a name that stands twice", "another order"],
)
def test_a_bundle_is_written_in_one_way(change: Callable[[bytes], bytes]) -> None:
    content = _canonical({"plan.py": CODE}, "plan.py")
    assert parse_bundle(content).entry == "plan.py"
    with pytest.raises(PlanError):
        parse_bundle(change(content))
