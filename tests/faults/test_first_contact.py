"""A node killed while it is made, joins, is given data and is offered its first plan: who does it again gets there."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from foedus.client import admin
from foedus.domain.errors import ConflictError
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import simulate
from foedus.node.owner import approve, identity, list_plans
from foedus.node.vault import Vault
from tests.faults.points import FIRST_CONTACT
from tests.federation import WAIT, LocalFederation, parts_of, spawn, stop, until
from tests.plans import prepared

CLIENT = "c0000"
DATA = {"name": "digits", "tags": ["digits"], "partition": {"name": "iid", "clients": 1}}
QUICK = {"commit:node_join:before"}
PLACES = [place if place in QUICK else pytest.param(place, marks=pytest.mark.soak) for place in FIRST_CONTACT]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    """A coordinator that no node has joined."""
    with LocalFederation(tmp_path) as running:
        running.start_coordinator()
        yield running


def _done(log: Path, place: str, *arguments: str, **environment: str) -> bool:
    """Run a command that may be killed at ``place``, and run it again if it was; whether it was."""
    code = spawn(log, *arguments, FOEDUS_CRASH=f"{place}:1", **environment).wait(WAIT)
    if code == -signal.SIGKILL:
        again = spawn(log, *arguments, **environment).wait(WAIT)
        # What was done before the kill may be told as a conflict; it must not be undone, and not be half.
        assert again in (0, ConflictError.exit_code), log.read_text()
    else:
        assert code == 0, log.read_text()
    return code == -signal.SIGKILL


def _offered(federation: LocalFederation, place: str, seconds: float) -> bool:
    """Start the node, and again if it is killed soon, until its owner sees a plan; whether it was killed."""
    home = federation.home(CLIENT)
    federation.start_node(CLIENT, FOEDUS_CRASH=f"{place}:1")
    process = federation.nodes[CLIENT]
    until("the plan is offered", lambda: process.poll() is not None or list_plans(home))
    with suppress(subprocess.TimeoutExpired):  # what was committed can be seen before the process is dead
        process.wait(seconds)
    killed = process.poll() == -signal.SIGKILL
    if killed:
        federation.start_node(CLIENT)
        until("the plan is offered again", lambda: list_plans(home))
    else:
        stop(process)
        federation.start_node(CLIENT)
    return killed


def _enrolled(federation: LocalFederation, ready: Prepared, place: str) -> bool:
    """Make a node as its owner would; whether a command was killed."""
    home, log = str(federation.home(CLIENT)), federation.folder / "commands.log"
    part = parts_of(ready, federation.folder / "parts")[CLIENT]
    killed = _done(log, place, "node", "init", "first", "--home", home)
    with federation.connection() as connection:
        token = admin.create_join_token(connection).token
    killed |= _done(
        log, place, "node", "join", "--home", home, "--coordinator", federation.url, FOEDUS_JOIN_TOKEN=token
    )
    plan = federation.folder / "site.toml"
    plan.write_text('name = "site"\n[columns.age]\n')
    killed |= _done(log, place, "node", "loading", "add", str(plan), "--home", home)
    data = ("node", "data", "add", str(part), "--name", CLIENT, "--tags", "digits", "--home", home)
    return killed | _done(log, place, *data)


@pytest.mark.parametrize("place", PLACES)
def test_a_node_killed_at_its_first_contact_gets_there_when_it_is_tried_again(
    place: str, federation: LocalFederation, tmp_path: Path
) -> None:
    ready = prepared(tmp_path, data=DATA, cohort={"size": 1}, rounds=1)
    killed = _enrolled(federation, ready, place)
    run = federation.submit(ready)
    killed |= _offered(federation, place, 2.0 if killed else WAIT)
    assert killed, "the crash point was not reached"
    approve(federation.home(CLIENT), ready.bundle.digest)
    view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", simulate(ready, Engine("eager", "inline")).model_digest)
    stop(federation.nodes[CLIENT])
    with federation.connection() as connection:
        (node,) = admin.list_nodes(connection)
    assert node.id == identity(federation.home(CLIENT)).node
    with Vault(federation.home(CLIENT)) as vault:
        events = [entry.event for entry in vault.audit()]
    for event in ("initialised", "joined", "loading_added", "dataset_added", "plan_seen", "approved"):
        assert events.count(event) == 1, f"{event} stands {events.count(event)} times in the node's log"
