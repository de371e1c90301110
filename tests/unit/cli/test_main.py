"""The script: help, the envelope, exit codes, and how errors are told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import click
import pytest

from foedus.cli import main as script
from foedus.cli.lazy import LazyGroup
from foedus.cli.main import CODES, NOUNS, execute, foedus
from foedus.domain.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    FoedusError,
    IntegrityError,
    NotFoundError,
    QuorumError,
    RunFailedError,
    StorageError,
    UnreachableError,
    UsageError,
)

HEAVY = ("torch", "fastapi", "sqlalchemy", "rich", "numpy", "matplotlib", "pydantic", "httpx")
Run = Callable[..., "object"]


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from leaves(found, (*path, name))
        else:
            yield (*path, name), found


LEAVES = dict(leaves(foedus))


def raise_from(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def callback() -> None:
        raise error

    monkeypatch.setattr(LEAVES["version",], "callback", callback)


def test_the_bare_command_shows_three_examples(run) -> None:
    ran = run()
    assert ran.code == 0
    assert ran.out.count("\nfoedus ") == 3


def test_help_names_every_noun_and_exit_code(run) -> None:
    ran = run("--help")
    assert ran.code == 0
    assert all(f"  {noun}" in ran.out for noun in NOUNS)
    kinds = [UsageError, ConfigError, AccessError, UnreachableError, NotFoundError, ConflictError, QuorumError]
    kinds += [IntegrityError, StorageError, RunFailedError]
    assert all(f"{kind.exit_code} " in CODES for kind in kinds)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["nonsense"]])
def test_what_needs_no_noun_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; from foedus.cli.main import execute; execute({arguments!r}); print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    assert "foedus.cli.main" in loaded
    assert not loaded & set(HEAVY)


def test_a_node_is_decided_on_without_torch() -> None:
    code = "import sys, foedus.cli.node; assert 'torch' not in sys.modules, 'torch'"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_takes_json_and_says_what_it_does(path: tuple[str, ...]) -> None:
    command = LEAVES[path]
    assert command.help
    assert "--json" in [option for parameter in command.params for option in parameter.opts]


@pytest.mark.parametrize(
    "table",
    [
        NOUNS,
        *(c.lazy for c in [foedus.get_command(click.Context(foedus), n) for n in NOUNS] if isinstance(c, LazyGroup)),
    ],
)
def test_tables_name_commands_as_their_modules_do(table: dict[str, tuple[str, str]]) -> None:
    for name, (place, _) in table.items():
        module, _, attribute = place.partition(":")
        assert vars(sys.modules[module])[attribute or "command"].name == name


def test_a_wrong_command_is_a_usage_error(run) -> None:
    ran = run("nonsense")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0].startswith("Error: No such command 'nonsense'")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["simulte", "run.toml"], "foedus simulate"),
        (["run", "compre", "a"], "foedus run compare"),
        (["simulate", "run.toml", "--kernel", "grph"], "graph"),
        (["simulate", "run.toml", "--executor", "worker"], "workers"),
    ],
)
def test_what_was_meant_is_guessed(run, arguments: list[str], meant: str) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert f"Did you mean `{meant}`? [usage]" in ran.err


def test_a_name_that_is_near_to_nothing_is_left_at_that(run) -> None:
    assert "Did you mean" not in run("zzz").err


def test_a_group_without_a_command_shows_its_help(run) -> None:
    ran = run("node", "data")
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: foedus node data" in ran.err


def test_usage_errors_come_in_the_envelope(run) -> None:
    ran = run("data", "partition", "--json")
    assert ran.code == 2
    assert ran.envelope["status"] == "error"
    assert ran.envelope["exit_code"] == 2
    assert ran.envelope["error"]["code"] == "usage"
    assert "foedus data partition --help" in ran.envelope["error"]["fix"]


def test_results_come_in_the_envelope(run) -> None:
    envelope = run("version", "--json").envelope
    assert envelope.keys() == {"schema_version", "status", "exit_code", "data"}
    assert (envelope["schema_version"], envelope["status"], envelope["exit_code"]) == (1, "ok", 0)
    assert envelope["data"].keys() == {"foedus", "python", "torch", "platform"}


def test_errors_are_three_short_lines(run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from(monkeypatch, NotFoundError("run_unknown", "No such run.", "It was never here.", "List the runs."))
    ran = run("version")
    assert (ran.code, ran.out) == (6, "")
    assert ran.err == "Error: No such run. [run_unknown]\n  Why: It was never here.\n  Fix: List the runs.\n"


def test_errors_obey_no_terminal(run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from(monkeypatch, FoedusError("code", "a\x1b[2Jb"))
    assert "\x1b" not in run("version").err


def test_an_unforeseen_error_says_how_to_report_it(run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from(monkeypatch, ZeroDivisionError("seven"))
    ran = run("version", "--json")
    assert ran.code == 1
    assert ran.envelope["error"]["code"] == "internal"
    assert "ZeroDivisionError: seven" in ran.envelope["error"]["message"]
    assert "FOEDUS_DEBUG=1" in ran.envelope["error"]["fix"]
    assert "Traceback" not in ran.err


def test_debug_shows_the_traceback(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOEDUS_DEBUG", "1")
    raise_from(monkeypatch, ZeroDivisionError("seven"))
    assert "raise error" in run("version").err


def test_an_interruption_is_130(run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from(monkeypatch, KeyboardInterrupt())
    ran = run("version", "--json")
    assert ran.code == 130
    assert ran.envelope["error"]["code"] == "interrupted"


def test_nobody_reading_is_no_error() -> None:
    command = [sys.executable, "-m", "foedus", "schema"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert error == b""


def test_the_module_is_the_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["foedus", "nonsense"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == execute(["nonsense"]) == 2


def test_completion_is_a_script_for_the_shell(run) -> None:
    ran = run("completion", "fish")
    assert ran.code == 0
    assert "complete --no-files --command foedus" in ran.out
