"""What an operator sees of a coordinator that runs: logs that programs read, without secrets, each with its request."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.federation import WAIT, LocalFederation, free_port, spawn, stop, until


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_every_line_is_json_names_its_request_and_holds_no_secret(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    url, secret = f"http://127.0.0.1:{port}", "fdp_" + "7" * 48
    arguments = ["--folder", str(tmp_path / "c"), "--port", str(port), "--log-format", "json", "--log-level", "debug"]
    process = spawn(log, "coordinator", "start", *arguments)
    try:
        until("it is ready", lambda: process.poll() is not None or _answers(url))
        token = next(line.split()[-1] for line in log.read_text().splitlines() if line.startswith("admin token"))
        with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
            for given, known in ((secret, False), (token, True)):
                headers = {"Authorization": f"Bearer {given}", "X-Request-Id": f"asked-{known}"}
                reply = client.get("/api/v1/nodes", headers=headers)
                assert (reply.status_code == 200) is known
                assert reply.headers["x-request-id"] == f"asked-{known}"
            client.get(f"/api/v1/runs/{secret}", headers={"Authorization": f"Bearer {token}"})
    finally:
        stop(process)
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    others = [line for line in log.read_text().splitlines() if not line.startswith("{")]
    assert {line.split("  ")[0] for line in others if not line.startswith(" ")} == {"coordinator", "API", "admin token"}
    assert {"at", "level", "logger", "message"} <= set.intersection(*(set(row) for row in rows))
    told = {row["request"]: row["message"] for row in rows if "request" in row}
    assert told["asked-True"] == "GET /api/v1/nodes 200" and told["asked-False"] == "GET /api/v1/nodes 401"
    assert not [row for row in rows if token in json.dumps(row) or secret in json.dumps(row)]


def test_traces_that_are_asked_for_without_a_known_exporter_are_refused_at_the_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = spawn(
        log, "coordinator", "start", "--folder", str(tmp_path / "c"), "--port", "0", OTEL_TRACES_EXPORTER="zipkin"
    )
    assert process.wait(WAIT) == 3
    assert "[settings_refused]" in log.read_text()


def test_a_node_logs_json_that_says_of_which_work(tmp_path: Path) -> None:
    """A node without a coordinator says so, in the form that it was asked for."""
    with LocalFederation(tmp_path) as federation:
        federation.start_coordinator()
        (tmp_path / "data.csv").write_text("x,y\n" + "1,0\n" * 20)
        federation.enrol("c0000", tmp_path / "data.csv")
        assert federation.coordinator is not None
        stop(federation.coordinator)
        federation.start_node("c0000", FOEDUS_LOG_FORMAT="json")
        log = tmp_path / "node-c0000.log"
        until("the node waits for its coordinator", lambda: "waiting for the coordinator" in log.read_text())
        stop(federation.nodes["c0000"])
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert {row["level"] for row in rows} <= {"info", "warning"}
    assert all(row["logger"].startswith("foedus.") for row in rows)
