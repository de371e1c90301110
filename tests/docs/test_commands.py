"""Every command in the README and the guides runs, in the order in which a reader would type it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import pytest

from foedus.sandbox.bubblewrap import unavailable
from tests import postgres, s3
from tests.federation import stop, until
from tests.holding import INSTALL
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ELSEWHERE = "make test"
"""The only command that is not run here: it runs this."""

NEEDS = {"plans.md": "sklearn", "ray.md": "ray"}
"""What a document's commands need beside the core: `make setup` installs it, other environments may lack it."""

DATA = {"hospitals.md": ("HEART", "heart-disease-4site", "sklearn")}
"""Where a document takes data from that a reader fetches: its variable, the folder of the data, and what reads them."""

COPIED = ("examples", "deploy", "docs", "Makefile", "pyproject.toml", "constraints.txt", "scripts", "src", "README.md")


def _script(document: Path) -> str:
    blocks = [text for language, text in BLOCK.findall(document.read_text()) if language == "sh"]
    lines = [line for block in blocks for line in block.splitlines() if line != ELSEWHERE]
    script = "\n".join(["set -euo pipefail", *lines])
    for port in ("8470", "8471", "8472"):
        script = script.replace(port, str(free_port()))
    return script


@contextmanager
def _services(document: Path, folder: Path) -> Iterator[None]:
    """What a document takes for granted: for ``operate.md`` a PostgreSQL and a bucket, told in ``production.env``."""
    if document.name != "operate.md":
        yield
        return
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    with postgres.serving(postgres.postgres_binaries()) as database, s3.serving() as storage:
        told = {"DATABASE": database.fresh(), "BLOBS": storage.fresh()}
        lines = [f"FOEDUS_COORDINATOR_{name}='{value}'" for name, value in told.items()]
        lines += [f"{name}={value}" for name, value in s3.CREDENTIALS.items()]
        (folder / "production.env").write_text("\n".join(lines))
        yield


def run_script(script: str, folder: Path, environment: dict[str, str], log: BinaryIO) -> int:
    """Run a script in ``folder``; returns its exit code. Nothing of what it started in its group outlives it, or us."""
    read, write = os.pipe()  # its end, which only we hold open, is read when we are done or dead
    last = f"{{ read -r _ <&{read}; kill -KILL 0; }} & disown; exec {read}<&- < /dev/null"
    try:
        shell = subprocess.Popen(
            ["bash", "-c", f"{last}\n{script}"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            pass_fds=[read],
            start_new_session=True,
        )
        try:
            return shell.wait(580)
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(shell.pid, number)
    finally:
        os.close(read)
        os.close(write)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a reader has after cloning and setting up: the tree, and the environment that runs this test."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():  # without the files that other processes are compiling and will rename
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            shutil.copy2(source, tmp_path / name)
    environment = Path(sys.executable).parent.parent
    ready = environment / ".ready"
    if not ready.exists():
        pytest.skip("this environment was not made by `make setup`, which the documents begin with")
    inputs = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "scripts/setup")]
    if any(path.stat().st_mtime > ready.stat().st_mtime for path in inputs):
        pytest.fail("`make setup` is due: without it `make demo` would install the copy into this environment")
    (tmp_path / ".venv").symlink_to(environment)
    return tmp_path


def _data(document: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """The variable in which a document is told where its data are; its test is skipped where they are not here."""
    if document.name not in DATA:
        return {}
    variable, folder, reader = DATA[document.name]
    pytest.importorskip(reader)
    place: Path = request.getfixturevalue("data_folder") / folder
    if not place.is_dir():
        pytest.skip(f"{document.name} needs the data in {folder}, which are not here")
    return {variable: str(place)}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_the_document_runs(document: Path, clone: Path, request: pytest.FixtureRequest) -> None:
    if document.name in NEEDS and find_spec(NEEDS[document.name]) is None:
        pytest.skip(f"{document.name} needs {NEEDS[document.name]}, which is not installed")
    if unavailable() and "node start" in document.read_text("utf-8"):
        pytest.skip(INSTALL)
    log = clone / "log"
    env = {
        **os.environ,
        **_data(document, request),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(clone / "src"),
    }
    with _services(document, clone), log.open("wb") as file:
        code = run_script(_script(document), clone, env, file)
    assert code == 0, log.read_text()[-3000:]


def test_a_script_and_what_it_started_die_with_who_runs_it(tmp_path: Path) -> None:
    """Even where that is killed, and can end nothing itself."""
    module = f"spec = importlib.util.spec_from_file_location('commands', {__file__!r})"
    script = f"echo $$ > {tmp_path}/shell; sleep 600 & echo $! > {tmp_path}/begun; touch {tmp_path}/ready; sleep 600"
    lines = [
        "import importlib.util, os, pathlib, sys",
        module,
        "commands = importlib.util.module_from_spec(spec)",
        "spec.loader.exec_module(commands)",
        f"commands.run_script({script!r}, pathlib.Path('.'), dict(os.environ), sys.stdout.buffer)",
    ]
    runner = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], env={**os.environ, "PYTHONPATH": f"src:{ROOT}"})
    until("the script has begun", (tmp_path / "ready").exists)
    started = [int((tmp_path / name).read_text()) for name in ("shell", "begun")]
    assert all(map(_lives, started))
    stop(runner, signal.SIGKILL)
    until("what it started has ended", lambda: not any(map(_lives, started)))


def _lives(process: int) -> bool:
    """Whether a process is there, and not only its remains, which its parent's parent will clear away."""
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_readme_shows_the_plan_that_is_there() -> None:
    """The README's plan is the example without docstrings and metrics."""
    shown = next(text for language, text in BLOCK.findall((ROOT / "README.md").read_text()) if language == "python")
    plan = (ROOT / "examples" / "digits" / "plan.py").read_text()
    statements = [line for line in shown.splitlines() if line.strip()]
    assert statements
    assert [line for line in statements if line not in plan.splitlines()] == []
