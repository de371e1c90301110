"""A local federation's processes are real, and gone afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from foedus.cli.local_federation import local_federation
from foedus.client.admin import list_nodes
from foedus.domain.errors import RunFailedError


def test_a_coordinator_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with local_federation(tmp_path / "federation") as federation:
        federation.start_coordinator()
        with federation.connection() as connection:
            assert list_nodes(connection) == ()
        federation.check()
        (process,) = federation.processes
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(RunFailedError, match="coordinator"):
            federation.check()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{federation.url}/healthz", trust_env=False)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_federation_that_is_terminated_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, local_federation(tmp_path / "federation"):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert "Terminated" in capsys.readouterr().err


def test_a_guarded_process_ends_with_its_parent_s_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "foedus.cli.guarded", "coordinator", "start", "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--folder", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        assert b'"token":"fdp_' in process.stdout.readline()
        process.stdin.close()
        assert process.wait(240) in {0, -signal.SIGTERM, -signal.SIGKILL}


def test_a_coordinator_that_does_not_come_up_is_told_with_its_log(tmp_path: Path) -> None:
    with local_federation(tmp_path / "federation") as federation:
        (tmp_path / "federation" / "coordinator").write_text("a file where a folder has to be")
        with pytest.raises(RunFailedError) as failed:
            federation.start_coordinator()
    assert failed.value.code == "process_failed"
    assert str(tmp_path / "federation" / "coordinator.log") in failed.value.fix
