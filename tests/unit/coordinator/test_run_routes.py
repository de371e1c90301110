"""The doors for people and for nodes at work, over HTTP against the whole application."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from foedus.coordinator.app import create_app, open_coordinator
from foedus.coordinator.settings import Settings
from foedus.domain.codec import encode, encode_tensors
from foedus.domain.tree import State, names_of_dtypes
from foedus.wire.messages import DatasetView, Hello, JoinNode, PlanApproval, Poll
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import RequestHead, Signer, sign
from tests.unit.coordinator.scene import BOOT, PLAN, contribution, initial_model, spec

API = "/api/v1"


@dataclass
class Doors:
    """A running application, a person's token, and nodes' keys."""

    http: httpx.Client
    token: str
    signers: dict[str, Signer]

    def person(self, method: str, path: str, json: Any = None, **headers: str) -> httpx.Response:
        bearer = {"Authorization": f"Bearer {self.token}"}
        return self.http.request(method, API + path, json=json, headers={**bearer, **headers})

    def blob(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        bearer = {"Authorization": f"Bearer {self.token}"}
        assert self.http.put(f"{API}/blobs/{digest}", content=content, headers=bearer).status_code < 300
        return digest

    def submission(self, rounds: int = 1) -> dict[str, Any]:
        rows = [
            {"name": n, "shape": list(t.shape), "dtype": names_of_dtypes[t.dtype], "kind": kind, "module": "Linear"}
            for (n, t), kind in zip(initial_model().items(), ("parameter", "parameter", "buffer"), strict=True)
        ]
        return {
            "spec": spec(1, rounds, test={"ratio": 0.0}),
            "plan": PLAN.digest,
            "plan_blob": self.blob(PLAN.to_bytes()),
            "parameters": self.blob(encode_tensors(initial_model())),
            "manifest": {"tensors": rows, "metrics": {"loss": "min"}},
        }

    def submit(self, **changes: Any) -> httpx.Response:
        key = changes.pop("key", "key-00000001")
        return self.person("POST", "/runs", {**self.submission(), **changes}, **{"Idempotency-Key": key})

    def node(self, name: str, path: str, body: bytes, method: str = "POST") -> httpx.Response:
        head = RequestHead(method, API + path, "", {"content-type": "application/json"})
        signed = sign(self.signers[name], head, hashlib.sha256(body).digest(), time.time())
        return self.http.request(method, API + path, content=body, headers={**head.headers, **signed})

    def enrol(self, name: str) -> None:
        key = generate_key()
        token = self.person("POST", "/join-tokens").json()["token"]
        self.signers[name] = Signer(public_key(key), key)
        join = JoinNode(token=token, name=name, public_key=public_key(key))
        self.signers[name] = Signer(self.node(name, "/node/join", join.model_dump_json().encode()).json()["node"], key)
        hello = Hello(
            boot=BOOT,
            version="1",
            datasets=(DatasetView(client=name, tags=("digits",), examples=9),),
            approvals=(PlanApproval(digest=PLAN.digest, state="approved"),),
        )
        assert self.node(name, "/node/hello", hello.model_dump_json().encode()).status_code == 200

    def poll(self, name: str, wait: float) -> dict[str, Any]:
        reply = self.node(name, "/node/poll", Poll(boot=BOOT, wait=wait).model_dump_json().encode())
        assert reply.status_code == 200, reply.text
        return dict(reply.json())


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    opened = open_coordinator(Settings(tmp_path))
    assert opened.admin is not None
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(opened.context), log_config=None))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=240, trust_env=False) as http:
        yield Doors(http, opened.admin.token, {})
    opened.context.live.bells.close()
    server.should_exit = True
    thread.join(120)
    opened.context.store.close()
    opened.lock.close()


def test_the_same_key_starts_one_run(doors: Doors) -> None:
    first, again = doors.submit(), doors.submit()
    assert first.status_code == 200, first.text
    assert first.json() == again.json()
    assert len(doors.person("GET", "/runs").json()["runs"]) == 1
    other = doors.submit(spec=spec(1, 7))
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


def test_a_run_needs_a_key_and_a_person(doors: Doors) -> None:
    assert doors.person("POST", "/runs", doors.submission()).json()["code"] == "idempotency_key_missing"
    assert doors.http.get(f"{API}/runs").json()["code"] == "token_missing"
    assert doors.person("GET", "/runs/run_0").json()["code"] == "run_unknown"


def test_a_wrong_spec_is_told_as_a_problem(doors: Doors) -> None:
    reply = doors.submit(spec={**spec(1, 1), "rouns": 1})
    assert (reply.status_code, reply.json()["code"]) == (422, "config_refused")
    assert "rounds" in reply.text


def test_a_waiting_poll_is_answered_when_there_is_work_and_the_work_ends_the_run(doors: Doors) -> None:
    doors.enrol("alpha")
    replies: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: replies.append(doors.poll("alpha", 20.0)))
    waiting.start()
    run = doors.submit().json()["id"]
    waiting.join(240)
    (found,) = replies[0]["assignments"]
    made = contribution("alpha", 1)
    update = encode(State(made.update))
    digest = hashlib.sha256(update).hexdigest()
    assert doors.node("alpha", f"/blobs/{digest}", update, "PUT").status_code < 300
    message = {
        "token": found["token"],
        "update": digest,
        "weights": made.weights,
        "metrics": made.metrics,
        "state": None,
        "seconds": 1.0,
    }
    body = httpx.Request("POST", "http://x", json=message).content
    path = f"/node/assignments/{found['id']}"
    assert doors.node("alpha", f"{path}/renew", b'{"token":1}').json() == {"lease": 60.0}
    assert doors.node("alpha", f"{path}/contribute", body).json()["outcome"] == "counted"
    kinds = [line for line in events(doors, run) if line.startswith("event: ")]
    assert kinds[-1] == "event: run_completed"
    assert doors.person("GET", f"/runs/{run}").json()["status"] == "completed"
    (row,) = doors.person("GET", f"/runs/{run}/rounds").json()["rounds"]
    models = doors.person("GET", f"/runs/{run}/models").json()["models"]
    assert [row["model"]] == [model["model_digest"] for model in models if model["round"] == 1]
    assert doors.poll("alpha", 0.0)["ended"] == [run]


def events(doors: Doors, run: str, **headers: str) -> list[str]:
    """The lines of a run's stream, to its end."""
    return doors.person("GET", f"/runs/{run}/events", **headers).text.splitlines()


def test_events_go_on_after_the_last_one_seen(doors: Doors) -> None:
    run = doors.submit().json()["id"]
    assert doors.person("POST", f"/runs/{run}/cancel").json()["status"] == "cancelled"
    lines = events(doors, run)
    ids = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    assert [line for line in lines if line.startswith("event: ")] == ["event: run_waiting", "event: run_cancelled"]
    later = events(doors, run, **{"Last-Event-ID": ids[0]})
    assert [line for line in later if line.startswith("id: ")] == [f"id: {ids[1]}"]
    last = doors.person("GET", f"/runs/{run}/events", **{"Last-Event-ID": ids[1]})
    assert (last.status_code, last.content) == (204, b"")


def test_a_run_is_looked_at_without_a_stream(doors: Doors) -> None:
    run = doors.submit().json()["id"]
    doors.person("POST", f"/runs/{run}/cancel")
    found = doors.person("GET", f"/runs/{run}/history").json()
    assert ([event["kind"] for event in found["events"]], found["last"]) == (["run_waiting", "run_cancelled"], True)
    assert [event["id"] for event in found["events"]] == [1, 2] and {e["run"] for e in found["events"]} == {run}
    later = doors.person("GET", f"/runs/{run}/history?after=1&wait=5").json()["events"]
    assert [event["kind"] for event in later] == ["run_cancelled"]


def test_a_look_waits_for_what_is_to_come(doors: Doors) -> None:
    run = doors.submit().json()["id"]
    found: list[dict[str, Any]] = []
    looking = threading.Thread(
        target=lambda: found.append(doors.person("GET", f"/runs/{run}/history?after=1&wait=20").json())
    )
    looking.start()
    doors.person("POST", f"/runs/{run}/pause")
    looking.join(240)
    assert [event["kind"] for event in found[0]["events"]] == ["run_paused"] and not found[0]["last"]


def test_a_paused_run_is_resumed(doors: Doors) -> None:
    run = doors.submit().json()["id"]
    assert doors.person("POST", f"/runs/{run}/pause").json()["status"] == "paused"
    assert doors.person("POST", f"/runs/{run}/resume").json()["status"] == "waiting"


def test_d1_a_draft_is_started_once_and_only_with_participants(doors: Doors) -> None:
    run = doors.submit(draft=True).json()["id"]
    assert doors.person("GET", f"/runs/{run}").json()["status"] == "draft"
    alone = doors.person("POST", f"/runs/{run}/start")
    assert (alone.status_code, alone.json()["code"]) == (400, "participants_missing")
    doors.enrol("alpha")
    assert doors.poll("alpha", 0.0)["assignments"] == []
    again = {"Idempotency-Key": "start-0000001"}
    started = doors.person("POST", f"/runs/{run}/start", **again)
    assert doors.person("POST", f"/runs/{run}/start", **again).json() == started.json(), "a reply that was lost"
    assert (started.status_code, started.json()["status"]) == (202, "waiting")
    assert doors.poll("alpha", 20.0)["assignments"] != []
    assert doors.person("GET", f"/runs/{run}").json()["status"] == "running"
    twice = doors.person("POST", f"/runs/{run}/start")
    assert (twice.status_code, twice.json()["code"]) == (400, "run_started")


def test_a_poll_without_work_ends_in_time(doors: Doors) -> None:
    doors.enrol("alpha")
    found = doors.poll("alpha", 0.1)
    assert (found["assignments"], found["plans"], found["ended"]) == ([], [], [])


def test_a_node_follows_the_runs_that_it_takes_part_in_and_no_other(doors: Doors) -> None:
    doors.enrol("alpha")
    run = doors.submit().json()["id"]
    path = f"/node/runs/{run}/history"
    told = doors.node("alpha", path, b'{"after":0}').json()["events"]
    assert told[0]["kind"] == "run_waiting" and {event["run"] for event in told} == {run}
    assert doors.node("alpha", path, b'{"after":1,"wait":20}').json()["events"][0]["id"] == 2
    other = {**doors.submission()["spec"], "data": {"name": "digits", "tags": ["faces"]}}
    foreign = doors.submit(spec=other, key="key-00000002").json()["id"]
    for unknown in (foreign, "run_000000000000"):
        refused = doors.node("alpha", f"/node/runs/{unknown}/history", b"{}")
        assert (refused.status_code, refused.json()["code"]) == (404, "run_unknown")
    assert doors.person("POST", path, {"after": 0}).status_code == 401


def test_work_is_for_nodes_that_sign(doors: Doors) -> None:
    reply = doors.person("POST", "/node/poll", {"boot": BOOT, "wait": 0})
    assert reply.status_code == 401
