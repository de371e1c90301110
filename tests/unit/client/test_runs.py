"""A run is submitted with all that it needs, followed to its end, and its models come home."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from foedus.client import runs
from foedus.client.http import Connection
from foedus.client.runs import Event, Submission
from foedus.domain.errors import UnreachableError
from foedus.domain.plan import ModelManifest, ModelTensor, PlanBundle, parse_bundle
from foedus.domain.run import parse_spec
from foedus.wire.messages import SubmitRun
from tests.unit.client.peer import Answer, Peer

SPEC = parse_spec(
    {
        "plan": "plan.py",
        "rounds": 2,
        "strategy": {"name": "fedavg", "local": {"optimizer": "sgd", "lr": 0.1}},
        "cohort": {"size": 2},
        "data": {"name": "digits", "tags": ["digits"], "partition": {"name": "iid", "clients": 2}},
    }
)
BUNDLE = PlanBundle({"plan.py": b"model = None\n"}, "plan.py")
MANIFEST = ModelManifest((ModelTensor("w", (2, 3), "F32", "parameter", "Linear"),), {"accuracy": "max"})
EVENT_STREAM = "text/event-stream; charset=utf-8"


def view(status: str = "running") -> Answer:
    values: dict[str, Any] = {
        "id": "r_1",
        "name": "digits",
        "status": status,
        "round": 0,
        "rounds": 2,
        "plan": BUNDLE.digest,
        "strategy": "fedavg",
        "created_at": "2030-01-01T00:00:00Z",
    }
    return Answer(body=json.dumps(values).encode())


def stream(text: str, cut: int | None = None) -> Answer:
    return Answer(body=text.encode(), kind=EVENT_STREAM, cut=cut)


def test_a_run_is_submitted_with_all_that_it_needs(peer: Peer, connection: Connection) -> None:
    peer.answers["POST /runs"] = view("waiting")
    run = runs.submit(connection, Submission(SPEC, BUNDLE, b"parameters", MANIFEST))
    sent = SubmitRun.model_validate_json(peer.asked("POST")[0].body)
    assert run.status == "waiting"
    assert parse_spec(sent.spec) == SPEC
    assert sent.plan == BUNDLE.digest == parse_bundle(peer.blobs[sent.plan_blob]).digest
    assert peer.blobs[sent.parameters] == b"parameters"
    assert sent.manifest.tensors[0].shape == (2, 3) and sent.manifest.metrics == {"accuracy": "max"}
    assert peer.log[-1].method == "POST" and peer.log[-1].headers["idempotency-key"]


def test_runs_are_listed_and_shown(peer: Peer, connection: Connection) -> None:
    peer.answers = {
        "GET /runs": Answer(body=b'{"runs": [' + view().body + b"]}"),
        "GET /runs/r_1": view(),
        "GET /runs/r_1/rounds": Answer(body=b'{"rounds": []}'),
    }
    assert [run.id for run in runs.list_runs(connection)] == ["r_1"]
    assert runs.show(connection, "r_1").name == "digits"
    assert runs.rounds(connection, "r_1").rounds == ()


@pytest.mark.parametrize(
    ("verb", "status"),
    [("start", "waiting"), ("pause", "paused"), ("resume", "running"), ("retry", "running"), ("cancel", "cancelled")],
)
def test_a_run_is_steered(peer: Peer, connection: Connection, verb: str, status: str) -> None:
    peer.answers[f"POST /runs/r_1/{verb}"] = view(status)
    assert getattr(runs, verb)(connection, "r_1").status == status


def test_a_run_is_followed_to_its_end_over_broken_connections(peer: Peer, connection: Connection) -> None:
    first = 'id: 1\nevent: round\ndata: {"round": 1}\n\n'
    peer.answers = {
        "GET /runs/r_1/events": [
            stream(first + "id: 2\nda", cut=len(first) + 3),
            Answer(503, b"", "text/html"),
            stream('id: 2\nevent: round\ndata: {"round": 2}\n\n'),
            stream("id: 3\nevent: ended\ndata: {}\n\n"),
            Answer(204),
        ],
        "GET /runs/r_1": view("completed"),
    }
    followed = list(runs.events(connection, "r_1"))
    assert followed == [Event("1", "round", {"round": 1}), Event("2", "round", {"round": 2}), Event("3", "ended", {})]
    asked = peer.asked("GET", "/runs/r_1/events")
    assert [request.headers.get("last-event-id") for request in asked] == [None, "1", "1", "2", "3"]


def test_a_quiet_stream_of_a_run_that_goes_on_is_taken_up_again(peer: Peer, connection: Connection) -> None:
    peer.answers = {
        "GET /runs/r_1/events": [stream(": still here\n\n")] * 6 + [stream("id: 9\ndata: 1\n\n"), stream("")],
        "GET /runs/r_1": [*[view("running")] * 6, view("failed")],
    }
    assert [event.id for event in runs.events(connection, "r_1", "7")] == ["9"]


def test_a_stream_that_never_comes_is_told(peer: Peer, connection: Connection) -> None:
    peer.answers["GET /runs/r_1/events"] = Answer(503, b"", "text/html")
    with pytest.raises(UnreachableError):
        next(runs.events(connection, "r_1"))
    assert len(peer.log) == 4


@pytest.mark.parametrize("answer", [stream("data: {\n\n"), Answer(body=b"{}")])
def test_what_is_no_event_is_refused(peer: Peer, connection: Connection, answer: Answer) -> None:
    peer.answers["GET /runs/r_1/events"] = answer
    with pytest.raises(UnreachableError) as caught:
        next(runs.events(connection, "r_1"))
    assert caught.value.code == "answer_malformed"


@pytest.fixture
def with_models(peer: Peer) -> Peer:
    models = []
    for number, content in ((0, b"first"), (2, b"latest"), (1, b"middle")):
        digest = hashlib.sha256(content).hexdigest()
        peer.blobs[digest] = content
        models.append({"run": "r_1", "round": number, "model_digest": "m", "blob": digest, "size": len(content)})
        peer.answers[f"GET /runs/r_1/models/{number}"] = Answer(body=json.dumps(models[-1]).encode())
    peer.answers["GET /runs/r_1/models"] = Answer(body=json.dumps({"models": models}).encode())
    return peer


@pytest.mark.usefixtures("with_models")
@pytest.mark.parametrize(("wanted", "content"), [(None, b"latest"), (0, b"first"), (1, b"middle")])
def test_a_model_comes_home(connection: Connection, tmp_path: Path, wanted: int | None, content: bytes) -> None:
    model = runs.download_model(connection, "r_1", wanted, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == content
    assert model.round == (2 if wanted is None else wanted)


def test_following_can_be_given_up(peer: Peer, connection: Connection) -> None:
    peer.answers["GET /runs/r_1/events"] = stream("id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n")
    following = runs.events(connection, "r_1")
    assert next(following).id == "1"
    following.close()  # type: ignore[attr-defined]
    assert len(peer.log) == 1
