"""A node is upgraded or rolled back while it has work: it goes on, or is told which version it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foedus.coordinator import nodes
from foedus.coordinator.supervisor import Supervisor
from foedus.wire.messages import PROTOCOL, DatasetView, Hello, PlanApproval
from tests.unit.coordinator.door import BOOT, code, opened
from tests.unit.coordinator.scene import PLAN, Scene, refusal

CLIENTS = ("c0", "c1")


@pytest.mark.parametrize("version", ["0.0.1", "99.0"])
def test_case_29_a_node_of_another_release_goes_on_with_the_job(version: str, tmp_path: Path) -> None:
    """Case 29: what the old process had leased is void, and the new one is asked the same at once."""
    scene = Scene(tmp_path, size=2, rounds=2)
    for client in CLIENTS:
        scene.enrol(client)
    run, supervisor = scene.submit(), Supervisor(scene.live)
    supervisor.start()
    try:
        before = scene.take("c0")
        hello = Hello(
            boot="boot-of-the-other",
            version=version,
            datasets=(DatasetView(client="c0", tags=("digits",), examples=100),),
            approvals=(PlanApproval(digest=PLAN.digest, state="approved"),),
        )
        with scene.live.store.transaction("hello") as tx:
            nodes.hello(tx, scene.node_of["c0"], hello)
        assert refusal(lambda: scene.contribute(before)).code == "lease_lost"
        assert refusal(lambda: scene.poll("c0")).code == "hello_needed"
        after = scene.take("c0", "boot-of-the-other")
        assert (after.id, after.token) == (before.id, before.token + 1)
        scene.contribute(after)
        scene.hello("c0")  # and back again
        scene.play(run, CLIENTS)
    finally:
        supervisor.stop()
    assert scene.show(run).status == "completed"
    assert scene.show(run).model_digest == scene.expected(CLIENTS)


@pytest.mark.parametrize("protocol", [PROTOCOL - 1, PROTOCOL + 1])
def test_case_29_a_node_that_speaks_another_protocol_is_told_which_is_needed(protocol: int, tmp_path: Path) -> None:
    """Case 29: it is refused with the version named, and what is known of the node stays as it was."""
    with opened(tmp_path) as door:
        node = door.enrol("a")
        hello = {"boot": BOOT, "version": "1.0", "datasets": [{"client": "c0", "tags": [], "examples": 3}]}
        assert door.signed(node, "POST", "/node/hello", json.dumps(hello).encode()).status_code == 200
        before = door.ask("GET", "/nodes").json()["nodes"]
        other = {**hello, "boot": "boot-0002", "version": "9.9", "datasets": [], "protocol": protocol}
        reply = door.signed(node, "POST", "/node/hello", json.dumps(other).encode())
        assert (reply.status_code, code(reply)) == (409, "protocol_unknown")
        assert f"protocol {protocol}" in reply.text and str(PROTOCOL) in reply.text
        after = door.ask("GET", "/nodes").json()["nodes"]
    for view in (*before, *after):
        view.pop("last_seen")
    assert before == after
