"""The demo, whole: real processes, what it prints, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(600)]


def _demo(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(Path("src").absolute()), **environment}
    command = [sys.executable, "-m", "foedus", "demo", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _alive(processes: list[psutil.Process]) -> list[str]:
    _, alive = psutil.wait_procs(processes, timeout=60)
    found = []
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def test_the_demo_as_data_where_there_is_no_bubblewrap(tmp_path: Path) -> None:
    """Nothing needs it: owners opt out in their policy, and one line says so."""
    process = _demo(tmp_path, "--json", PATH=str(tmp_path))
    out, err = process.communicate(timeout=580)
    assert process.returncode == 0, err
    envelope = json.loads(out)
    assert (envelope["schema_version"], envelope["status"], envelope["exit_code"]) == (1, "ok", 0)
    data = envelope["data"]
    assert data["rounds"] == 20
    comparison = data["comparison"]
    alone = [value for name, value in comparison.items() if name.endswith("alone")]
    assert len(alone) == 4
    assert max(alone) < comparison["federated"] < comparison["all data in one place"]
    folder = tmp_path / data["folder"]
    for name in ("run.toml", "rounds.jsonl", "summary.json", "model.safetensors", "environment.json", "log.jsonl"):
        assert (folder / name).stat().st_size > 0, name
    assert len((folder / "rounds.jsonl").read_text().splitlines()) == 20
    assert "<svg" in (folder / "report.html").read_text()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert all(f"owner of {owner}" in err for owner in ("north", "east", "south", "west"))
    assert err.count("approved") >= 4
    assert "no sandbox here" in err and "The command bwrap is missing." in err


def test_ctrl_c_once_stops_cleanly_and_leaves_no_process(tmp_path: Path) -> None:
    process = _demo(tmp_path)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any("round 1/" in line for line in lines)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 5
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "Traceback" not in out
    assert _alive(children) == []


def test_a_killed_demo_leaves_no_process_either(tmp_path: Path) -> None:
    process = _demo(tmp_path)
    assert process.stderr is not None
    assert any("approved" in line for line in iter(process.stderr.readline, ""))
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 5
    process.kill()
    process.wait()
    assert _alive(children) == []
    process.stderr.close()
    assert process.stdout is not None
    process.stdout.close()
