"""The whole coordinator as a process: it starts once per folder, tells its state, stops at once, and goes on later."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from foedus.coordinator.app import open_coordinator, serve
from foedus.coordinator.settings import Settings
from foedus.domain.errors import ConflictError, StorageError
from foedus.wire.messages import PROTOCOL
from foedus.wire.signing import Signer
from tests.postgres import usual_database
from tests.unit.coordinator.door import API, BOOT, Door, code, opened
from tests.unit.coordinator.scene import until

SERVE = """
import sys
from pathlib import Path
from foedus.coordinator.app import open_coordinator, serve
from foedus.coordinator.settings import Settings
opened = open_coordinator(Settings(Path(sys.argv[1]), port=0))
serve(opened.context, lambda url: print(url, opened.admin.token if opened.admin else "-", flush=True))
"""


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Door]]:
    """A coordinator in a process of its own."""
    command = [sys.executable, "-c", SERVE, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, token = process.stdout.readline().split()
        door = Door(url, None, token)
        try:
            yield process, door
        finally:
            door.client.close()
            process.kill()


def _hello(door: Door, node: Signer) -> None:
    body = json.dumps({"boot": BOOT, "version": "0"}).encode()
    assert door.signed(node, "POST", "/node/hello", body).status_code == 200


def _stopped(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the process ends after the signal as it should."""
    process.send_signal(number)
    return process.wait(120) in (0, -number)


def test_a_signal_ends_it_though_polls_wait_and_the_folder_goes_on(tmp_path: Path) -> None:
    with served(tmp_path) as (process, door):
        token, node = door.token, door.enrol("clinic-a")
        _hello(door, node)
        poll = json.dumps({"boot": BOOT, "wait": 60}).encode()
        headers = door.signature(node, "POST", "/node/poll", poll)
        replies: list[int] = []
        waiting = threading.Thread(
            target=lambda: replies.append(door.send("POST", "/node/poll", poll, headers).status_code)
        )
        waiting.start()
        until(lambda: "foedus_open_requests 2.0" in door.client.get(f"{door.url}/metrics").text)
        assert waiting.is_alive()
        assert _stopped(process, signal.SIGTERM)
        waiting.join(120)
        assert replies == [200]
    with served(tmp_path) as (process, door):
        assert door.token == "-"
        assert [view["name"] for view in door.ask("GET", "/nodes", token=token).json()["nodes"]] == ["clinic-a"]
        assert _stopped(process, signal.SIGINT)


def test_what_was_signed_before_a_start_is_refused_after_it(tmp_path: Path) -> None:
    """What replicas share, they remember beyond a start; one process alone has forgotten, and takes nothing older."""
    refused = "signature_replayed" if usual_database(tmp_path) else "signature_expired"
    with opened(tmp_path) as door:
        node = door.enrol("clinic-a")
        body = json.dumps({"boot": BOOT, "version": "0"}).encode()
        headers = door.signature(node, "POST", "/node/hello", body)
        assert door.send("POST", "/node/hello", body, headers).status_code == 200
    until(lambda: time.time() >= int(headers["Signature-Input"].split("created=")[1].split(";")[0]) + 1)
    with opened(tmp_path) as door:
        assert code(door.send("POST", "/node/hello", body, headers)) == refused
        _hello(door, node)


def test_one_folder_has_one_coordinator(tmp_path: Path) -> None:
    first = open_coordinator(Settings(tmp_path))
    with pytest.raises(ConflictError) as refusal:
        open_coordinator(Settings(tmp_path))
    assert refusal.value.code == "folder_in_use"
    first.lock.close()
    open_coordinator(Settings(tmp_path)).lock.close()


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as door:
        port = int(door.url.rpartition(":")[2])
        other = open_coordinator(Settings(tmp_path / "b", port=port))
        with pytest.raises(ConflictError) as refusal:
            serve(other.context, lambda url: None)
        other.lock.close()
    assert refusal.value.code == "port_taken"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as refusal:
        open_coordinator(Settings(tmp_path / "file" / "folder"))
    assert refusal.value.code == "folder_unusable"


def test_health_readiness_version_and_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as door:

        def get(path: str) -> httpx.Response:
            return door.client.get(door.url + path)

        assert get("/healthz").json() == {"status": "ok"}
        assert get("/readyz").json() == {"status": "ready"}
        assert get("/version").json()["protocol"] == PROTOCOL
        paths = get("/openapi.json").json()["paths"]
        assert f"{API}/blobs/{{digest}}" in paths and f"{API}/node/poll" in paths
        assert [get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
        monkeypatch.setattr(door.parts.artifacts, "writable", lambda: False)
        assert (get("/readyz").status_code, get("/healthz").status_code) == (507, 200)
