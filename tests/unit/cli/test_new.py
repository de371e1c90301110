"""``foedus new`` and its templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus.engine.prepare import prepare


def test_what_it_makes_runs(run, here: Path) -> None:
    assert run("new", "hello").code == 0
    ran = run("simulate", "hello/run.toml", "--set", "rounds=2", "--json")
    assert ran.code == 0
    assert ran.envelope["data"]["run"] == "hello"


def test_it_is_the_example(run, here: Path, digits: Path) -> None:
    run("new", "hello")
    for name in ("plan.py", "run.toml"):
        assert (here / "hello" / name).read_bytes() == (digits / name).read_bytes()


def test_it_overwrites_nothing(run, here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "plan.py").write_text("precious")
    ran = run("new", "mine", "--json")
    assert ran.code == 7
    assert ran.envelope["error"]["code"] == "folder_in_use"
    assert [path.name for path in (here / "mine").iterdir()] == ["plan.py"]
    assert (here / "mine" / "plan.py").read_text() == "precious"


def test_a_file_in_its_place_is_a_storage_error(run, here: Path) -> None:
    (here / "mine").write_text("")
    assert run("new", "mine").code == 11


@pytest.mark.parametrize(("kind", "tensors"), [("function", {"coef", "intercept"}), ("command", {"weights"})])
def test_the_other_kinds_are_examples_too_and_run(run, here: Path, digits: Path, kind: str, tensors: set[str]) -> None:
    ran = run("new", "mine", "--kind", kind, "--json")
    example = digits.parent / kind
    files = {path.relative_to(example) for path in example.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {here / path for path in ran.envelope["data"]["files"]} == {
        here / "mine" / path for path in {*files, Path("README.md")}
    }
    for path in files:
        assert (here / "mine" / path).read_bytes() == (example / path).read_bytes()
    assert prepare(here / "mine").model.keys() == tensors
