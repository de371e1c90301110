"""What hostile nodes, people and strangers send over HTTP is refused with a code, and changes nothing."""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import torch
from sqlalchemy import func, select

from foedus.domain.codec import encode, encode_tensors
from foedus.domain.tree import State, names_of_dtypes
from foedus.store.people import api_tokens
from foedus.store.tables import assignments, join_tokens, nodes, runs
from foedus.wire.signing import Signer
from tests.unit.coordinator.door import BOOT, Door, code, opened
from tests.unit.coordinator.scene import PLAN, contribution, initial_model, spec, until

KEYS = itertools.count(10_000_000)
CLIENT = "c-000"


@dataclass
class Place:
    """A coordinator, and a run that asks the clients of many nodes, of which the last never answers."""

    door: Door
    nodes: list[Signer] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    model: bytes = field(default_factory=lambda: encode_tensors(initial_model()))

    def enrol(self, name: str, tag: str) -> Signer:
        hello = {
            "boot": BOOT,
            "version": "1",
            "datasets": [{"client": name, "tags": [tag], "examples": 9}],
            "approvals": [{"digest": PLAN.digest, "state": "approved"}],
        }
        node = self.door.enrol(f"node-{name}")
        assert self.door.signed(node, "POST", "/node/hello", json.dumps(hello).encode()).status_code == 200
        return node

    def blob(self, content: bytes, node: Signer | None = None) -> str:
        digest = hashlib.sha256(content).hexdigest()
        assert self.door.signed(node or self.nodes[-1], "PUT", f"/blobs/{digest}", content).status_code in (200, 201)
        return digest

    def own_blob(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        assert self.door.ask("PUT", f"/blobs/{digest}", content=content).status_code == 201
        return digest

    def submission(self, size: int, **changes: Any) -> dict[str, Any]:
        rows = [
            {"name": n, "shape": list(t.shape), "dtype": names_of_dtypes[t.dtype], "kind": kind, "module": "Linear"}
            for (n, t), kind in zip(initial_model().items(), ("parameter", "parameter", "buffer"), strict=True)
        ]
        return {
            "spec": {**spec(size, 1, test={"ratio": 0.0}), "cohort": {"size": size, "minimum": 1}, **changes},
            "plan": PLAN.digest,
            "plan_blob": self.own_blob(PLAN.to_bytes()),
            "parameters": self.own_blob(self.model),
            "manifest": {"tensors": rows, "metrics": {"loss": "min"}},
        }

    def submit(self, body: bytes) -> httpx.Response:
        return self.door.ask("POST", "/runs", content=body, headers={"Idempotency-Key": str(next(KEYS))})

    def start(self, size: int, **changes: Any) -> dict[str, Any]:
        reply = self.submit(json.dumps(self.submission(size, **changes)).encode())
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def take(self, node: Signer) -> dict[str, Any]:
        """The node's next assignment."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            reply = self.door.signed(node, "POST", "/node/poll", json.dumps({"boot": BOOT, "wait": 5}).encode())
            assert reply.status_code == 200, reply.text
            found.extend(reply.json()["assignments"])
            return bool(found)

        until(look)
        return found[0]

    def say(self, node: Signer, ask: dict[str, Any], message: bytes) -> httpx.Response:
        return self.door.signed(node, "POST", f"/node/assignments/{ask['id']}/contribute", message)

    def count(self) -> tuple[int, ...]:
        tables = (runs, nodes, api_tokens, join_tokens)
        with self.door.parts.store.reading() as tx:
            return tuple(tx.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)

    def row(self, ask: dict[str, Any]) -> tuple[Any, ...]:
        with self.door.parts.store.reading() as tx:
            columns = (assignments.c.status, assignments.c.token, assignments.c.receipt)
            return tuple(tx.execute(select(*columns).where(assignments.c.id == ask["id"])).one())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with opened(tmp_path_factory.mktemp("coordinator")) as door:
        found = Place(door)
        found.nodes = [found.enrol(f"c-{number:03}", "digits") for number in range(len(CONTRIBUTIONS) + 1)]
        found.run = found.start(len(found.nodes))
        yield found


@pytest.fixture(scope="module")
def leased(place: Place) -> dict[str, Any]:
    """An assignment in the last node's hands, which no test of this file takes away."""
    return place.take(place.nodes[-1])


def update(**changes: Any) -> bytes:
    """An update as it should be, but for these tensors of its parameters; None leaves one out."""
    parts = contribution(CLIENT, 1).update
    changed = {**parts["parameters"], **changes}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    return encode(State({"parameters": kept, "buffers": parts["buffers"]}))


def file_of(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def doubled(content: bytes) -> bytes:
    """A safetensors file whose header names its first tensor twice, with bytes that fit both."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    start = header.index(b'"buffers/n"')
    entry = header[start : header.index(b"}", start) + 1]
    return file_of(header[:-1] + b"," + entry + b"}", content[8 + length :])


def claiming(name: str, **entry: Any) -> bytes:
    """An update whose header says something else of one tensor."""
    content = update()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[name] |= entry
    return file_of(json.dumps(header).encode(), content[8 + length :])


def message(ask: dict[str, Any], digest: str | None, **changes: Any) -> dict[str, Any]:
    usual = {"token": ask["token"], "update": digest, "weights": {"examples": 10.0}, "metrics": {"loss": 0.5}}
    return {**usual, "state": None, "seconds": 0.1, **changes}


def refused(place: Place, leased: dict[str, Any], old: str, new: str) -> None:
    """The message with this in the place of that is refused, and the lease stays."""
    before, text = place.row(leased), json.dumps(message(leased, None))
    assert old in text
    reply = place.say(place.nodes[-1], leased, text.replace(old, new).encode())
    assert (reply.status_code, code(reply)) == (400, "message_malformed")
    assert place.row(leased) == before


@pytest.mark.parametrize("value", ["true", '"10"', "NaN", "1e999", "null", "[]", "-Infinity"])
def test_case_33_examples_that_are_no_number_are_refused(place: Place, leased: dict[str, Any], value: str) -> None:
    refused(place, leased, '"examples": 10.0', f'"examples": {value}')


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"loss": 0.5', '"loss": -Infinity'),
        ('"loss": 0.5', '"loss": NaN'),
        ('"loss": 0.5', '"loss": "0.5"'),
        ('"loss": 0.5', '"\\u001b[2J": 0.5'),
        ('"loss": 0.5', '"l' + "o" * 10_000 + '": 0.5'),
        ('"loss": 0.5', ", ".join(f'"m{number}": 0' for number in range(1001))),
        ('"loss": 0.5', '"loss": ' + "[" * 5000 + "]" * 5000),
        ('"loss": 0.5', ", ".join(f'"m{number}": 0' for number in range(100_000))),
        ('"loss": 0.5', '"' + "l" * 1_000_000 + '": 0.5'),
    ],
)
def test_case_35_metrics_are_bounded(place: Place, leased: dict[str, Any], old: str, new: str) -> None:
    """NaN, 100,000 keys, a key of 1 MB, JSON nested 5,000 deep."""
    before, text = place.row(leased), json.dumps(message(leased, None))
    reply = place.say(place.nodes[-1], leased, text.replace(old, new).encode())
    assert (reply.status_code, code(reply)) in ((400, "message_malformed"), (413, "body_too_large"))
    assert place.row(leased) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"examples": 10.0', '"../examples": 10.0'),
        ('"token": 1', '"token": "1"'),
        ('"token": 1', '"token": true'),
        ('"token": 1', '"token": -1'),
        ('"seconds": 0.1', '"seconds": 1e300'),
        ('"state": null', '"state": "../../key"'),
        ('"state": null', '"state": null, "approved": true'),
    ],
)
def test_a_malformed_contribution_is_refused_and_the_lease_stays(
    place: Place, leased: dict[str, Any], old: str, new: str
) -> None:
    refused(place, leased, old, new)


NOT_TENSORS: dict[str, tuple[bytes, int, str]] = {
    "a pickle": (pickle.dumps({"w": 1}), 422, "not_safetensors"),
    "a zip, as torch writes": (b"PK\x03\x04" + bytes(100), 422, "not_safetensors"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(100), 422, "not_safetensors"),
    "nothing": (b"", 422, "not_safetensors"),
    "a header past the end": ((1 << 40).to_bytes(8, "little") + b"{}", 422, "not_safetensors"),
    "a header without end": (file_of(b'{"x":[' + b"[]," * 30_000 + b"[]]}"), 413, "header_too_large"),
    "a nested header": (file_of(b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}"), 422, "not_safetensors"),
    "a key that stands twice": (doubled(update()), 422, "not_safetensors"),
    "trailing bytes": (update() + b"x", 422, "not_safetensors"),
    "a cut body": (update()[:-1], 422, "not_safetensors"),
}
TENSORS: dict[str, tuple[bytes, str, str]] = {
    "missing": (update(w=None), "tensor_missing", "parameters/w"),
    "extra": (update(extra=torch.zeros(1)), "tensor_extra", "parameters/extra"),
    "renamed": (update(w=None, W=torch.zeros(5, 3)), "tensor_missing", "parameters/w"),
    "shape": (update(w=torch.zeros(3, 5)), "tensor_shape", "parameters/w"),
    "rank": (update(b=torch.zeros(3, 1)), "tensor_shape", "parameters/b"),
    "1-d for 0-d": (claiming("buffers/n", shape=[1]), "tensor_shape", "buffers/n"),
    "wide": (update(w=torch.zeros(5, 3, dtype=torch.float64)), "tensor_dtype", "parameters/w"),
    "integers": (update(w=torch.zeros(5, 3, dtype=torch.int32)), "tensor_dtype", "parameters/w"),
    "the broadcast": (encode_tensors(initial_model()), "tensor_missing", "parameters/w"),
}
"""Case 31; each refusal names the tensor."""

VALUES: dict[str, tuple[bytes, str, str]] = {
    "NaN": (update(w=torch.full((5, 3), float("nan"))), "update_not_finite", "parameters/w"),
    "-Inf": (update(b=torch.tensor([0.0, float("-inf"), 0.0])), "update_not_finite", "parameters/b"),
    "Inf": (update(b=torch.tensor([0.0, 0.0, float("inf")])), "update_not_finite", "parameters/b"),
    "1e38": (update(b=torch.tensor([0.0, 0.0, 1e38])), "update_out_of_range", "parameters/b"),
}
"""Case 32."""

HEADERS: dict[str, bytes] = {
    "complex": claiming("parameters/b", dtype="C64"),
    "object": claiming("parameters/b", dtype="O"),
    "big-endian": claiming("parameters/b", dtype=">f4"),
    "2^31 elements": claiming("parameters/b", shape=[2**31]),
    "a product that overflows": claiming("parameters/b", shape=[2**33, 2**33]),
    "a product that overflows to 3": claiming("parameters/b", shape=[2**64 + 3]),
    "a negative size": claiming("parameters/b", shape=[-3]),
    "no elements": claiming("parameters/b", shape=[0]),
    "no bytes": claiming("parameters/b", data_offsets=[0, 0]),
}
"""Cases 31 and 36: what the format does not know, or what its own numbers deny."""

SAID: dict[str, tuple[dict[str, Any], str]] = {
    "weight 0": ({"weights": {"examples": 0}}, "weight_refused"),
    "weight below 0": ({"weights": {"examples": -5.0}}, "weight_refused"),
    "weight 1e18": ({"weights": {"examples": 1e18}}, "weight_refused"),
    "weight that vanishes": ({"weights": {"examples": 5e-324}}, "weight_refused"),
    "no weight": ({"weights": {}}, "weight_refused"),
    "a foreign weight": ({"weights": {"examples": 1.0, "steps": 1.0}}, "weight_refused"),
    "a foreign metric": ({"metrics": {"loss": 1.0, "reward": 1.0}}, "metric_refused"),
    "many metrics": ({"metrics": {"m" * 50 + str(number): 0.0 for number in range(900)}}, "metric_refused"),
    "an absurd metric": ({"metrics": {"loss": 1e308}}, "metric_refused"),
    "no update": ({"update": None}, "update_missing"),
}
CONTRIBUTIONS = {
    **{name: (content, {}, status, why) for name, (content, status, why) in NOT_TENSORS.items()},
    **{name: (content, {}, 422, why) for name, (content, why, _) in (TENSORS | VALUES).items()},
    **{name: (content, {}, 422, "not_safetensors") for name, content in HEADERS.items()},
    **{name: (update(), changes, 422, why) for name, (changes, why) in SAID.items()},
}


def fails(place: Place, case: str, tensor: str = "") -> None:
    """The contribution is refused with its code, fails its client, and leaves run and model as they were."""
    content, changes, status, why = CONTRIBUTIONS[case]
    node = place.nodes[list(CONTRIBUTIONS).index(case)]
    ask = place.take(node)
    reply = place.say(node, ask, json.dumps(message(ask, place.blob(content, node), **changes)).encode())
    assert (reply.status_code, code(reply)) == (status, why)
    assert tensor in reply.text, "the refusal names the tensor"
    (state, _, receipt), now = place.row(ask), place.door.ask("GET", f"/runs/{place.run['id']}").json()
    assert (state, receipt["failure"].startswith(why), len(receipt["failure"]) < 2000) == ("failed", True, True)
    assert (now["status"], now["round"], now["model_digest"]) == ("running", 0, place.run["model_digest"])


@pytest.mark.parametrize("case", TENSORS.keys())
def test_case_31_other_tensors_are_refused_by_name(place: Place, case: str) -> None:
    fails(place, case, TENSORS[case][2])


@pytest.mark.parametrize("case", VALUES.keys())
def test_case_32_values_that_would_spoil_the_model_are_refused_and_not_mended(place: Place, case: str) -> None:
    fails(place, case, VALUES[case][2])


@pytest.mark.parametrize("case", [case for case in SAID if "weight" in case])
def test_case_33_implausible_weights_are_refused(place: Place, case: str) -> None:
    fails(place, case)


@pytest.mark.parametrize("case", [case for case in SAID if "metric" in case])
def test_case_35_metrics_that_nobody_asked_for_are_refused(place: Place, case: str) -> None:
    fails(place, case)


@pytest.mark.parametrize("case", HEADERS.keys())
def test_case_36_sizes_and_kinds_that_cannot_be_are_refused_before_anything_is_made_of_them(
    place: Place, case: str
) -> None:
    fails(place, case)


@pytest.mark.parametrize("case", [*NOT_TENSORS, "no update"])
def test_a_contribution_that_is_not_what_was_asked_fails_and_leaves_the_model(place: Place, case: str) -> None:
    fails(place, case)


def test_another_node_s_assignment_is_as_unknown_as_one_that_is_not_there(place: Place, leased: dict[str, Any]) -> None:
    before, content = place.row(leased), json.dumps(message(leased, None)).encode()
    replies = [place.say(place.nodes[0], ask, content) for ask in (leased, {"id": "as_" + "0" * 20})]
    assert [reply.status_code for reply in replies] == [404, 404]
    assert replies[0].json() == replies[1].json()
    assert place.row(leased) == before


@pytest.mark.parametrize("change", [1, -1])
def test_a_token_of_another_lease_is_worth_nothing(place: Place, leased: dict[str, Any], change: int) -> None:
    before = place.row(leased)
    reply = place.say(
        place.nodes[-1], leased, json.dumps(message(leased, None, token=leased["token"] + change)).encode()
    )
    assert (reply.status_code, code(reply), place.row(leased)) == (409, "lease_lost", before)


TRICKS = ["..%2f..%2fkey", "%2e%2e%2f", "%252e%252e%252f", "..%5ckey", "%00", "a;b", "%ef%bc%8e", "%0d%0ax:y"]
ROUTES = ["GET /blobs/{}", "PUT /blobs/{}", "PATCH /uploads/{}", "GET /runs/{}", "POST /nodes/{}/revoke"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_path_in_place_of_an_id_finds_nothing(place: Place, route: str) -> None:
    before = place.count(), place.door.files()
    for trick in [*TRICKS, "a" * 10_000]:
        method, path = route.format(trick).split()
        reply = place.door.ask(method, path, headers={"Upload-Offset": "0"}, content=b"" if method == "GET" else b"x")
        assert trick in str(reply.request.url)
        assert (reply.status_code in (400, 404), code(reply) != "") == (True, True)
    assert (place.count(), place.door.files()) == before


REFUSED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a name with a path": lambda asked: asked["spec"].update(name="../../x"),
    "a name with control characters": lambda asked: asked["spec"].update(name="a\x1b[2J\nplan approved"),
    "a name of 10 kB": lambda asked: asked["spec"].update(name="x" * 10_000),
    "a tag with a line break": lambda asked: asked["spec"]["data"].update(tags=["digits\nmore"]),
    "a plan's name of 10 kB": lambda asked: asked["spec"].update(plan="x" * 10_000),
    "rounds without end": lambda asked: asked["spec"].update(rounds=10**30),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_names_that_a_terminal_would_obey_start_no_run(place: Place, change: Callable[[dict[str, Any]], Any]) -> None:
    asked, before = place.submission(1), place.count()
    change(asked)
    reply = place.submit(json.dumps(asked).encode())
    assert (reply.status_code, code(reply), place.count()) == (422, "config_refused", before)


def test_a_seed_of_63_bits_does_not_stop_a_node_s_polls(place: Place) -> None:
    node, data = place.enrol("c-seed", "seed"), {**place.submission(1)["spec"]["data"], "tags": ["seed"]}
    run = place.start(1, seed=2**63 - 1, data=data)["id"]
    assert (ask := place.take(node))["run"] == run
    assert ask["seed"] == 2**63 - 1


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\u202eb"])
def test_notes_and_reasons_are_lines_of_plain_text(place: Place, leased: dict[str, Any], text: str) -> None:
    approval = {"digest": PLAN.digest, "state": "rejected", "note": text}
    said = {"hello": {"boot": BOOT, "version": "1", "approvals": [approval]}}
    said[f"assignments/{leased['id']}/fail"] = {"token": leased["token"], "code": "work_failed", "reason": text}
    before = place.row(leased)
    for path, body in said.items():
        reply = place.door.signed(place.nodes[-1], "POST", f"/node/{path}", json.dumps(body).encode())
        assert (reply.status_code, code(reply)) == (400, "message_malformed")
    assert place.row(leased) == before
