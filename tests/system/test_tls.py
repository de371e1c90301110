"""TLS as it is served: nodes' certificates, what refuses them, and a certificate and a key replaced in mid-run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from foedus.client import admin
from foedus.client.http import Connection
from foedus.domain.errors import UnreachableError
from foedus.engine.choice import Engine
from foedus.engine.simulate import simulate
from foedus.node.keys import rotate_key
from foedus.wire.http import Retry
from foedus.wire.people import NewOrg, OrgView
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import Signer
from foedus.wire.trust import NewJoinToken
from tests.certificates import SERVER, Authority, Pair
from tests.federation import LocalFederation, parts_of, stop, until
from tests.plans import DIGITS, prepared
from tests.unit.coordinator.door import BOOT, Door, code


class Secured(LocalFederation):
    """A federation whose coordinator speaks TLS; who signed its certificate stands in FOEDUS_CA_FILE."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        with suppress(httpx.HTTPError):
            context = ssl.create_default_context(cafile=os.environ["FOEDUS_CA_FILE"])
            return httpx.get(f"{self.url}/readyz", timeout=5, verify=context, trust_env=False).status_code == 200
        return False

    def serial(self) -> int:
        """The serial number of the certificate that new connections are shown."""
        context = ssl.create_default_context(cafile=os.environ["FOEDUS_CA_FILE"])
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            return int(str((secure.getpeercert() or {})["serialNumber"]), 16)


@dataclass
class Guarded:
    """A coordinator that asks nodes for certificates, the authorities, and a node that has joined with a good one."""

    federation: Secured
    clients: Authority
    servers: Authority
    good: Pair
    node: Signer
    crl: Path

    def door(self, pair: Pair | None) -> Door:
        """The door, for who shows this certificate."""
        context = ssl.create_default_context(cafile=self.servers.path)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return Door(
            self.federation.url,
            None,
            self.federation.token,
            httpx.Client(trust_env=False, timeout=120.0, verify=context),
        )

    def hello(self, pair: Pair | None) -> httpx.Response:
        """The node's greeting over a new connection that shows this certificate."""
        door = self.door(pair)
        try:
            body = json.dumps({"boot": BOOT, "version": "1"}).encode()
            return door.signed(self.node, "POST", "/node/hello", body)
        finally:
            door.client.close()

    def log(self) -> str:
        return (self.federation.folder / "coordinator.log").read_text()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    servers, clients = Authority(folder / "ca", "servers"), Authority(folder / "ca", "clients")
    server, good = servers.issue("server", usage=SERVER), clients.issue("clinic-a", "clinic")
    crl = folder / "revoked.pem"
    clients.revoke(crl)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOEDUS_CA_FILE", str(servers.path))
        with Secured(folder) as federation:
            federation.start_coordinator(
                FOEDUS_COORDINATOR_TLS_CERT=str(server.certificate),
                FOEDUS_COORDINATOR_TLS_KEY=str(server.key),
                FOEDUS_COORDINATOR_CLIENT_CA=str(clients.path),
                FOEDUS_COORDINATOR_CLIENT_CRL=str(crl),
            )
            private = generate_key()
            found = Guarded(federation, clients, servers, good, Signer("", private), crl)
            with federation.connection() as connection:
                connection.post("/orgs", OrgView, NewOrg(name="clinic"))
                wanted = NewJoinToken(organisation="clinic", name="clinic-a")
                token = admin.create_join_token(connection, wanted).token
            door = found.door(good)
            body = {"token": token, "name": "clinic-a", "organisation": "clinic", "public_key": public_key(private)}
            signer = Signer(public_key(private), private)
            reply = door.signed(signer, "POST", "/node/join", json.dumps(body).encode())
            door.client.close()
            assert reply.status_code == 200, reply.text
            found.node = Signer(reply.json()["node"], private)
            yield found


def test_case_47_a_good_certificate_of_the_node_s_organisation_is_taken(guarded: Guarded) -> None:
    assert guarded.hello(guarded.good).status_code == 200
    another = guarded.clients.issue("clinic-b", "clinic")
    assert guarded.hello(another).status_code == 200


def test_case_47_people_need_none(guarded: Guarded) -> None:
    door = guarded.door(None)
    assert door.ask("GET", "/nodes").status_code == 200
    door.client.close()


REFUSED_BY_US: dict[str, tuple[dict[str, Any] | None, str]] = {
    "no certificate": (None, "there is none"),
    "another tenant's": ({"organisation": "other"}, "is of 'other', the node of 'clinic'"),
    "nobody's": ({"organisation": ""}, "is of ''"),
}


@pytest.mark.parametrize("name", REFUSED_BY_US)
def test_case_47_refused_with_401_and_the_reason_in_the_log_alone(name: str, guarded: Guarded) -> None:
    changes, reason = REFUSED_BY_US[name]
    pair = None if changes is None else guarded.clients.issue(name.replace(" ", "-"), **changes)
    reply = guarded.hello(pair)
    assert (reply.status_code, code(reply)) == (401, "certificate_refused")
    assert reason not in reply.text and "other" not in reply.text
    until("the reason is logged", lambda: reason in guarded.log())


BROKEN: dict[str, dict[str, Any]] = {
    "expired": {"organisation": "clinic", "days": (-3, -1)},
    "not yet valid": {"organisation": "clinic", "days": (1, 3)},
    "a server's": {"organisation": "clinic", "usage": SERVER},
}


@pytest.mark.parametrize("name", [*BROKEN, "wrong CA"])
def test_case_47_refused_by_tls(name: str, guarded: Guarded, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "clients") if name == "wrong CA" else guarded.clients
    pair = authority.issue(f"bad-{name.replace(' ', '-')}", **BROKEN.get(name, {"organisation": "clinic"}))
    with pytest.raises(httpx.TransportError):
        guarded.hello(pair)


def test_case_47_a_revoked_certificate_is_refused_also_on_a_connection_that_is_open(guarded: Guarded) -> None:
    pair = guarded.clients.issue("leaked", "clinic")
    door = guarded.door(pair)
    body = json.dumps({"boot": BOOT, "version": "1"}).encode()
    assert door.signed(guarded.node, "POST", "/node/hello", body).status_code == 200
    guarded.clients.revoke(guarded.crl, pair.serial)
    reply = door.signed(guarded.node, "POST", "/node/hello", body)
    assert (reply.status_code, code(reply)) == (401, "certificate_refused")
    assert "revoked" not in reply.text
    door.client.close()
    until("it is logged", lambda: f"{pair.serial:x} is revoked" in guarded.log())
    assert guarded.hello(guarded.good).status_code == 200
    guarded.crl.write_text("no list at all")
    assert guarded.hello(pair).status_code == 401


def test_case_47_a_client_s_certificate_is_no_server_s(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody with a node's certificate cannot pass for the coordinator."""
    monkeypatch.setenv("FOEDUS_CA_FILE", str(guarded.clients.path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(guarded.good.certificate, guarded.good.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True):
                pass

        thread = threading.Thread(target=accept)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with Connection(url, "fdp_" + "0" * 48, Retry(attempts=1)) as connection, pytest.raises(UnreachableError) as no:
            admin.list_nodes(connection)
        thread.join(10)
    assert no.value.code == "tls_failed"


def test_what_is_said_where_one_side_speaks_no_tls(guarded: Guarded) -> None:
    plain = f"http://127.0.0.1:{guarded.federation.port}"
    with Connection(plain, "fdp_" + "0" * 48, Retry(attempts=1)) as connection, pytest.raises(UnreachableError) as no:
        admin.list_nodes(connection)
    assert "https://" in no.value.fix and "closes the connection" in no.value.what
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            found, _ = listener.accept()
            with found, suppress(OSError):
                found.recv(4096)
                found.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        secure = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with Connection(secure, "fdp_" + "0" * 48, Retry(attempts=1)) as there, pytest.raises(UnreachableError) as no:
            admin.list_nodes(there)
        thread.join(10)
    assert (no.value.code, "http://" in no.value.fix) == ("tls_missing", True)


def test_case_22_a_certificate_and_a_key_are_replaced_in_mid_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New chain, new node key, no restart, no re-enrolment; the run ends with the simulation's bits."""
    first, second = Authority(tmp_path / "ca", "first"), Authority(tmp_path / "ca", "second")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(first.path.read_bytes() + second.path.read_bytes())
    monkeypatch.setenv("FOEDUS_CA_FILE", str(bundle))
    old, new = first.issue("old", usage=SERVER), second.issue("new", usage=SERVER)
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    shutil.copy(old.certificate, certificate)
    shutil.copy(old.key, key)
    two = {"name": "digits", "tags": ["digits"], "partition": {"name": "iid", "clients": 2}}
    ready = prepared(tmp_path, DIGITS, rounds=16, cohort={"size": 2}, data=two)
    expected = simulate(ready, Engine("eager", "inline"))
    with Secured(tmp_path) as federation:
        federation.start_coordinator(FOEDUS_COORDINATOR_TLS_CERT=str(certificate), FOEDUS_COORDINATOR_TLS_KEY=str(key))
        for client, path in parts_of(ready, tmp_path / "parts").items():
            federation.enrol(client, path)
            federation.start_node(client)
        assert federation.serial() == old.serial
        run = federation.submit(ready)
        federation.approve_all(ready.bundle.digest)
        until("the run is in its middle", lambda: federation.show(run).round >= 3)
        client, other = federation.nodes
        federation.nodes[other].send_signal(signal.SIGSTOP)  # so that it stays there
        shutil.copy(new.key, key)
        time.sleep(0.1)
        shutil.copy(new.certificate, certificate)
        before = (federation.home(client) / "key").read_text()
        assert rotate_key(federation.home(client)).overlap == 600.0
        assert (federation.home(client) / "key").read_text() != before
        until("new connections get the new certificate", lambda: federation.serial() == new.serial)
        assert federation.show(run).status == "running"
        assert federation.coordinator is not None
        for process in federation.nodes.values():
            assert process.poll() is None
        stop(federation.nodes[other], signal.SIGKILL)
        federation.start_node(other)
        rotate_key(federation.home(other), overlap=0.0)
        view = federation.finish(run)
        assert (view.status, view.reason, view.model_digest) == ("completed", "", expected.model_digest)
