"""What a coordinator does when its database breaks off: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from foedus.coordinator.app import create_app, open_coordinator
from foedus.coordinator.settings import Settings
from foedus.domain.codec import encode
from foedus.domain.tree import State
from foedus.engine.choice import Engine
from foedus.engine.simulate import simulate
from tests.commit_cutter import CommitCutter, When
from tests.federation import start_federation, until
from tests.plans import prepared
from tests.postgres import Postgres, postgres_binaries, serving
from tests.unit.coordinator.scene import contribution, spec
from tests.unit.coordinator.test_run_routes import Doors


@contextmanager
def doors_on(folder: Path, url: str) -> Iterator[Doors]:
    """A coordinator on PostgreSQL that listens, until the block ends."""
    opened = open_coordinator(Settings(folder, database=url, migrate=True, leader_lease=1.0, connections=6))
    assert opened.admin is not None
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(opened.context), log_config=None, timeout_graceful_shutdown=3))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=240, trust_env=False) as http:
        yield Doors(http, opened.admin.token, {})
    opened.context.live.bells.close()
    server.should_exit = True
    thread.join(120)
    opened.context.store.close()
    listener.close()
    assert not thread.is_alive()


@pytest.mark.parametrize("when", ["before", "after"])
def test_case_16_a_submission_whose_commit_was_cut_is_made_once(when: When, postgres: Postgres, tmp_path: Path) -> None:
    url, cutter = postgres.fresh(), CommitCutter(postgres.port)
    database = url.rpartition("/")[2]
    with doors_on(tmp_path, postgres.url(database, cutter.port)) as doors:
        body, key = doors.submission(), {"Idempotency-Key": "key-00000001"}
        cutter.arm(when, b"INSERT INTO runs")
        unknown = doors.person("POST", "/runs", body, **key)
        assert cutter.cut.wait(120)
        assert (unknown.status_code, unknown.json()["code"]) == (503, "database_unreachable")
        assert float(unknown.headers["Retry-After"]) > 0
        assert postgres.sql("SELECT count(*) FROM runs", database) == ("1" if when == "after" else "0")
        again = doors.person("POST", "/runs", body, **key)
        assert again.status_code == 200, again.text
        assert doors.person("POST", "/runs", body, **key).json() == again.json()
        assert postgres.sql("SELECT count(*), min(id) FROM runs", database) == f"1|{again.json()['id']}"
    cutter.close()


def test_case_15_while_the_database_is_down_all_are_asked_to_wait_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    with serving(postgres_binaries()) as server, doors_on(tmp_path, server.fresh()) as doors:
        for name in ("alpha", "beta"):
            doors.enrol(name)
        run = doors.submit(spec=spec(2, 1, test={"ratio": 0.0})).json()["id"]
        found = {name: doors.poll(name, 20.0)["assignments"][0] for name in ("alpha", "beta")}
        assert _contribute(doors, "alpha", found["alpha"]).json()["outcome"] == "counted"
        server.stop(signal.SIGINT)
        for reply in (
            doors.person("GET", f"/runs/{run}"),
            doors.person("POST", "/join-tokens"),
            doors.node("beta", f"/node/assignments/{found['beta']['id']}/renew", b'{"token":1}'),
        ):
            assert (reply.status_code, reply.json()["code"]) == (503, "database_unreachable"), reply.text
            assert float(reply.headers["Retry-After"]) > 0
        assert doors.http.get("/healthz").status_code == 200
        assert doors.http.get("/readyz").status_code == 503
        time.sleep(3.0)
        server.start()
        reply = doors.person("GET", f"/runs/{run}")
        assert (reply.status_code, reply.json()["status"]) == (200, "running"), "it has failed nothing"
        assert _contribute(doors, "beta", found["beta"]).json()["outcome"] == "counted"
        _until_ended(doors, run)
        (phase,) = doors.person("GET", f"/runs/{run}/rounds").json()["rounds"][0]["phases"]
        assert [(receipt["client"], receipt["failure"]) for receipt in phase["receipts"]] == [
            ("alpha", ""),
            ("beta", ""),
        ]


@pytest.mark.soak
def test_case_15_nodes_wait_out_a_minute_without_a_database(tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, rounds=3), tmp_path / "federation"
    folder.mkdir()
    with serving(postgres_binaries()) as server, start_federation(folder, run, server.fresh()) as federation:
        name = federation.submit(run)
        federation.approve_all(run.bundle.digest)
        until("a round is committed", lambda: federation.show(name).round >= 1)
        server.stop(signal.SIGINT)
        time.sleep(60.0)
        server.start()
        view = federation.finish(name)
        assert (view.status, view.model_digest) == (
            "completed",
            simulate(run, Engine("eager", "inline")).model_digest,
        )
        assert all(node.poll() is None for node in federation.nodes.values())


def _contribute(doors: Doors, name: str, found: dict[str, Any]) -> httpx.Response:
    made = contribution(name, 1)
    content = encode(State(made.update))
    digest = hashlib.sha256(content).hexdigest()
    assert doors.node(name, f"/blobs/{digest}", content, "PUT").status_code < 300
    message = {
        "token": found["token"],
        "update": digest,
        "weights": made.weights,
        "metrics": made.metrics,
        "state": None,
        "seconds": 1.0,
    }
    body = httpx.Request("POST", "http://x", json=message).content
    return doors.node(name, f"/node/assignments/{found['id']}/contribute", body)


def _until_ended(doors: Doors, run: str) -> None:
    end = time.monotonic() + 240
    while doors.person("GET", f"/runs/{run}").json()["status"] == "running":
        assert time.monotonic() < end
        time.sleep(0.1)
