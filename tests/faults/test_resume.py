"""A simulation that is killed or interrupted anywhere goes on from its folder, and comes to the same bits."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from foedus.cli.main import execute
from foedus.cli.simulation import begin, run
from foedus.domain.errors import ConflictError
from foedus.engine.choice import Engine
from foedus.engine.folder import is_run

DIGITS = Path("examples/digits/run.toml").resolve()
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
ENGINES = [("eager", "inline"), ("eager", "workers"), ("graph", "inline"), ("graph", "workers")]
TIMES = {"seconds", "client_seconds"}
RUN = ["rounds=5", "checkpoint.every=2", "strategy.server.optimizer=adam", "strategy.server.lr=0.05"]


def command(folder: Path, kernel: str, executor: str, *more: str) -> list[str]:
    settings = [word for setting in [*RUN, *more] for word in ("--set", setting)]
    workers = ["--workers", "2"] if executor == "workers" else []
    return [
        "simulate",
        str(DIGITS),
        *settings,
        "--kernel",
        kernel,
        "--executor",
        executor,
        *workers,
        "--out",
        str(folder),
    ]


def apart(target: Callable[..., Any], *arguments: object) -> int:
    """Run a function in a process of its own; returns the process's exit code."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join(300)
    assert process.exitcode is not None
    return process.exitcode


def run_and_die(arguments: Sequence[str], folder: Path, at: int, log: Path) -> None:
    """Run a command, and be killed at the ``at``-th time that something is done to a file or folder in ``folder``."""
    count = 0

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count
        if event in EVENTS and str(details[0]).startswith(str(folder)) and os.getpid() == this:
            count += 1
            with os.fdopen(os.dup(listed), "a") as file:
                file.write(f"{event} {Path(str(details[0])).relative_to(folder)}\n")
            if count == at:
                os.kill(this, signal.SIGKILL)

    this, listed = os.getpid(), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.addaudithook(hook)
    sys.exit(execute(arguments))


def rounds(folder: Path) -> list[dict[str, Any]]:
    """rounds.jsonl without what a clock on the wall said."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(inner) for key, inner in value.items() if key not in TIMES}
        return [timeless(inner) for inner in value] if isinstance(value, list) else value

    return [timeless(json.loads(line)) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def same_run(found: Path, expected: Path) -> None:
    assert (found / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert rounds(found) == rounds(expected)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (found, expected)]
    for key in ("status", "rounds", "metrics", "model_digest", "kernel"):
        assert summaries[0][key] == summaries[1][key]
    states = [folder / "checkpoints" / "000005" for folder in (found, expected)]
    for name in ("strategy.safetensors", "port.safetensors", "clients-00000.safetensors"):
        assert (states[0] / name).read_bytes() == (states[1] / name).read_bytes()


@pytest.fixture(scope="module", params=ENGINES, ids=["-".join(engine) for engine in ENGINES])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that nobody disturbed, and every time that it touched its folder."""
    folder, log = tmp_path_factory.mktemp("whole") / "run", tmp_path_factory.mktemp("log") / "log"
    assert apart(run_and_die, command(folder, *request.param), folder, 0, log) == 0
    (folder / "engine").write_text(" ".join(request.param))
    return folder, log.read_text().splitlines()


def killed_at(point: int, whole: Path, tmp_path: Path) -> bool:
    """Kill a run at one point, go on, and compare; whether there was a run to go on with."""
    kernel, executor = (whole / "engine").read_text().split()
    folder = tmp_path / f"killed{point}"
    words = command(folder, kernel, executor)
    assert apart(run_and_die, words, folder, point, tmp_path / "log") == -signal.SIGKILL
    begun = is_run(folder)
    if begun:
        chosen = recipe(folder)
        code = apart(execute_and_exit, ["simulate", "--resume", str(folder)])
        assert code == (ConflictError.exit_code if complete(folder, code) else 0)
        assert chosen in (None, recipe(folder))
        same_run(folder, undisturbed(whole, recipe(folder)))
    shutil.rmtree(folder, ignore_errors=True)
    return begun


def recipe(folder: Path) -> Any:
    """The recipe of a run's kernel, empty for kernel eager; none before the choice was made."""
    return json.loads((folder / "environment.json").read_text()).get("recipe")


def undisturbed(whole: Path, chosen: dict[str, Any]) -> Path:
    """The run that nobody disturbed, of this recipe: a run that begins times its recipes, and their bits differ."""
    if chosen == recipe(whole):
        return whole
    folder = whole.with_name(f"run-{hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]}")
    if not folder.exists():
        kernel, executor = (whole / "engine").read_text().split()
        workers = 2 if executor == "workers" else None
        assert apart(run_whole, folder, Engine(kernel, executor, workers, recipe=chosen)) == 0
    assert recipe(folder) == chosen
    return folder


def run_whole(folder: Path, engine: Engine) -> None:
    run(begin(DIGITS, dict(setting.split("=", 1) for setting in RUN), engine, folder))


def complete(folder: Path, code: int) -> bool:
    """Whether there was nothing to go on with: the run was killed after all was written."""
    return code != 0 and json.loads((folder / "summary.json").read_text())["status"] == "completed"


def execute_and_exit(arguments: Sequence[str]) -> None:
    sys.exit(execute(arguments))


def test_a_run_killed_while_it_writes_a_checkpoint_or_a_round_goes_on(
    uninterrupted: tuple[Path, list[str]], tmp_path: Path
) -> None:
    whole, points = uninterrupted
    second = [at for at, point in enumerate(points, 1) if "000004" in point]
    assert any(points[at - 1].startswith("os.rename") for at in second)
    summary = points.index("open .summary.json.part") + 1
    of_rounds = [at for at, point in enumerate(points, 1) if point == "open rounds.jsonl"]
    begun = points.index("os.rename .environment.json.part") + 2  # nothing is chosen by then
    some = {begun, second[2]}
    every = {second[0], second[2], second[-1], second[-1] + 1, of_rounds[-2], summary}
    for point in sorted(every if (whole / "engine").read_text() == "eager inline" else some):
        assert killed_at(point, whole, tmp_path), f"nothing to go on with after point {point}: {points[point - 1]}"


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_run_killed_anywhere_goes_on(uninterrupted: tuple[Path, list[str]], tmp_path: Path) -> None:
    whole, points = uninterrupted
    every = 1 if (whole / "engine").read_text() == "eager inline" else 5
    begun = [killed_at(point, whole, tmp_path) for point in range(1, len(points) + 1, every)]
    first = next(at for at, point in enumerate(points, 1) if point.startswith("open rounds.jsonl"))
    # From the moment at which the folder is a run there is always one to go on with, and that is before round 1 ends.
    assert begun == sorted(begun)
    assert all(begun[-(-(first - 1) // every) :])


@pytest.mark.parametrize(
    ("sent", "code", "executor"), [(signal.SIGINT, 130, "workers"), (signal.SIGTERM, 143, "inline")]
)
def test_a_run_that_is_stopped_says_how_it_goes_on_and_does(
    tmp_path: Path, sent: signal.Signals, code: int, executor: str
) -> None:
    arguments = ["simulate", "run.toml", "--kernel", "eager", "--executor", executor, "--out", "run"]
    (tmp_path / "run.toml").write_text(DIGITS.read_text().replace("rounds = 20", "rounds = 5"))
    plan = (DIGITS.parent / "plan.py").read_text()
    waits = "    import pathlib, time; pathlib.Path('slow').exists() and time.sleep(0.01)\n    return nn.functional"
    slow = plan.replace("    return nn.functional", waits, 1)
    assert slow != plan
    (tmp_path / "plan.py").write_text(slow)
    (tmp_path / "slow").touch()
    words = [sys.executable, "-m", "foedus", *arguments]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = [next(line for line in process.stderr if line.startswith("round 2"))]
        process.send_signal(sent)
        said += process.stderr.readlines()
    (tmp_path / "slow").unlink()
    assert process.returncode == code
    assert "it goes on with: foedus simulate --resume run\n" in "".join(said)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    (kept,) = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert summary["rounds"] - 1 <= kept <= summary["rounds"]
    again = subprocess.run(
        [sys.executable, "-m", "foedus", "simulate", "--resume", "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert f"going on after round {kept}\n" in again.stderr
    subprocess.run([*words[:-1], "whole"], cwd=tmp_path, check=True)
    same_run(tmp_path / "run", tmp_path / "whole")
