"""What befalls uploads and storage, between real processes: kills, repetitions, lies, full disks, changed bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import select

from foedus.client import blobs
from foedus.client.http import Connection
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import simulate
from foedus.node.owner import approve, identity, list_plans
from foedus.node.vault import Vault
from foedus.store.tables import assignments
from foedus.store.unit_of_work import Store
from foedus.wire.http import API
from foedus.wire.signing import RequestHead, Signer, sign
from tests.faults.test_network import WIDE
from tests.federation import LocalFederation, parts_of, start_federation, stop, until
from tests.plans import prepared
from tests.proxy import Trouble, proxied

DATA = {"name": "digits", "tags": ["digits"], "partition": {"name": "iid", "clients": 2}}
CONTENT = os.urandom(1 << 20) * 3
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def _ready(folder: Path) -> Prepared:
    return prepared(folder, WIDE, data=DATA, cohort={"size": 2, "minimum": 2}, rounds=1)


def _expected(ready: Prepared) -> str:
    return simulate(ready, Engine("eager", "inline")).model_digest


def _half_written(federation: LocalFederation) -> list[Path]:
    return list((federation.folder / "coordinator" / "partial").iterdir())


def _stored(federation: LocalFederation) -> set[str]:
    found = (federation.folder / "coordinator" / "blobs").glob("??/*")
    return {path.parent.name + path.name for path in found}


def _updates(federation: LocalFederation) -> set[Path]:
    """The updates among the coordinator's blobs; a run that starts stores others."""
    found = (federation.folder / "coordinator" / "blobs").glob("??/*")
    return {path for path in found if b"parameters/" in path.read_bytes()[:1000]}


def test_case_1_a_node_killed_in_the_middle_of_its_upload(tmp_path: Path) -> None:
    """Case 1: nothing of it is ever seen, its assignment is leased again, and the round ends as if nothing was."""
    ready = _ready(tmp_path)
    with LocalFederation(tmp_path) as federation, ExitStack() as wire:
        proxy = wire.enter_context(proxied(federation.port, 1, Trouble(rate=12_000, up=2_000)))
        federation.start_coordinator(FOEDUS_COORDINATOR_INLINE="0")  # small as they are, updates come as large ones do
        for client, part in parts_of(ready, tmp_path / "parts").items():
            federation.enrol(client, part)
        with Vault(federation.home("c0001")) as vault:
            vault.joined(str(identity(federation.home("c0001")).node), f"http://127.0.0.1:{proxy.port}")
        for client in ("c0000", "c0001"):
            federation.start_node(client)
        run = federation.submit(ready)
        for client in ("c0001", "c0000"):
            home = federation.home(client)
            until(f"{client} sees the plan", lambda h=home: list_plans(h))
            approve(home, ready.bundle.digest)
            if client == "c0001":  # it sleeps until the other is done
                until("its approval is known", lambda: "ready" in [c.status for c in federation.show(run).clients])
                federation.nodes[client].send_signal(signal.SIGSTOP)
        until("c0000 has sent its update", lambda: len(_updates(federation)) == 1)
        federation.nodes["c0001"].send_signal(signal.SIGCONT)
        until("c0001 is sending its update", lambda: _half_written(federation) != [])
        federation.nodes["c0001"].send_signal(signal.SIGKILL)
        federation.nodes["c0001"].wait()
        wire.close()  # and what of it was still on its way
        seen = _updates(federation)
        until("nothing is left of it", lambda: _half_written(federation) == [])
        assert _updates(federation) == seen and len(seen) == 1
        with Vault(federation.home("c0001")) as vault:
            vault.joined(str(identity(federation.home("c0001")).node), federation.url)
        federation.start_node("c0001")
        view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", _expected(ready))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A coordinator and two nodes, one of which has done a run; the nodes rest now."""
    folder = tmp_path_factory.mktemp("federation")
    ready = _ready(folder)
    with start_federation(folder, ready) as running:
        run = running.submit(ready)
        running.approve_all(ready.bundle.digest)
        assert running.finish(run).status == "completed"
        for node in running.nodes.values():
            stop(node)
        yield running


def _signed(federation: LocalFederation, client: str, method: str, path: str, body: bytes) -> httpx.Response:
    """A request as the node of a client signs it."""
    with Vault(federation.home(client)) as vault:
        signer = Signer(str(vault.identity().node), vault.private_key)
    headers = sign(signer, RequestHead(method, API + path, "", {}), hashlib.sha256(body).digest(), time.time())
    url = federation.url + API + path
    return httpx.request(method, url, content=body, headers=headers, trust_env=False, timeout=240)


def _contribution(federation: LocalFederation, client: str) -> tuple[str, dict[str, object]]:
    """The first assignment that a client has answered with an update, and how."""
    store = Store(f"sqlite:///{federation.folder / 'coordinator' / 'coordinator.db'}")
    try:
        with store.reading() as tx:
            mine = (assignments.c.client == client, assignments.c.update.is_not(None))
            row = tx.execute(select(assignments).where(*mine)).first()
            assert row is not None
            return row.id, {**row.contribution, "token": row.token, "seconds": 1.0}
    finally:
        store.close()


def test_cases_3_and_4_a_contribution_told_again(federation: LocalFederation) -> None:
    """Case 3: the same again is answered the same and counts once. Case 4: other bytes are refused, the first stay.

    The refusal stands in the audit log.
    """
    assignment, said = _contribution(federation, "c0000")
    path = f"/node/assignments/{assignment}/contribute"
    body = httpx.Request("POST", federation.url, json=said).read()
    first, second = (_signed(federation, "c0000", "POST", path, body) for _ in range(2))
    assert (first.status_code, first.json()) == (200, {"assignment": assignment, "outcome": "counted"})
    assert second.json() == first.json()
    put = _signed(federation, "c0000", "PUT", f"/blobs/{DIGEST}", CONTENT)
    assert put.status_code == 201
    other = httpx.Request("POST", federation.url, json={**said, "update": DIGEST}).read()
    refused = _signed(federation, "c0000", "POST", path, other)
    assert (refused.status_code, refused.json()["code"]) == (409, "already_answered")
    assert _contribution(federation, "c0000")[1]["update"] == said["update"]
    headers = {"Authorization": f"Bearer {federation.token}"}
    page = httpx.get(f"{federation.url}{API}/audit?limit=1000", headers=headers, trust_env=False).json()
    assert any("already_answered" in (entry["text"] or "") for entry in page["entries"])


def test_a_node_that_knows_a_digest_can_neither_name_nor_read_the_blob(federation: LocalFederation) -> None:
    """Another's update is not there for it, and nothing tells whether it is there for anybody."""
    _, theirs = _contribution(federation, "c0001")
    digest, unknown = str(theirs["update"]), "0" * 64
    for name in (digest, unknown):
        reply = _signed(federation, "c0000", "GET", f"/blobs/{name}", b"")
        assert (reply.status_code, reply.json()["code"]) == (404, "blob_unknown")
        assert _signed(federation, "c0000", "HEAD", f"/blobs/{name}", b"").status_code == 404
    size = (federation.folder / "coordinator" / "blobs" / digest[:2] / digest[2:]).stat().st_size
    views = []
    for name in (digest, unknown):
        command = httpx.Request("POST", federation.url, json={"digest": name, "size": size}).read()
        views.append(_signed(federation, "c0000", "POST", "/uploads", command).json())
    assert [(view["offset"], view["complete"]) for view in views] == [(0, False), (0, False)]


def _raw(federation: LocalFederation, head: str, body: Iterator[bytes]) -> bytes:
    """A request as it stands; what is answered before the server hangs up or says what it wants."""
    with socket.create_connection(("127.0.0.1", federation.port), timeout=240) as connection:
        lines = f"{head}\r\nHost: x\r\nAuthorization: Bearer {federation.token}\r\n\r\n"
        connection.sendall(lines.encode())
        try:
            for piece in body:
                connection.sendall(piece)
        except OSError:
            pass
        connection.settimeout(240)
        try:
            return connection.recv(65536)
        except ConnectionError:
            return b""


ENDLESS = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"


@pytest.mark.parametrize(
    ("head", "pieces", "codes"),
    [
        ("PUT {blob} HTTP/1.1\r\nContent-Length: 40000000", 610, (b"413", b"")),
        ("PUT {blob} HTTP/1.1\r\nTransfer-Encoding: chunked", 610, (b"413", b"")),
        ("PUT {blob} HTTP/1.1\r\nContent-Length: -1", 1, (b"400",)),
        ("PUT {blob} HTTP/1.1\r\nContent-Length: 10", 1, (b"400", b"422")),
        ("PUT {blob} HTTP/1.1", 1, (b"400", b"422")),
        ("POST /api/v1/runs HTTP/1.1\r\nTransfer-Encoding: chunked", 610, (b"400", b"413", b"")),
        (
            "POST /api/v1/runs HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=\r\nContent-Length: 65536",
            1,
            (b"400",),
        ),
    ],
    ids=["ten times", "endless", "negative", "lying", "absent", "endless message", "multipart"],
)
def test_case_40_uploads_over_the_limit_are_refused_early_and_memory_stays_flat(
    head: str, pieces: int, codes: tuple[bytes, ...], small: LocalFederation
) -> None:
    """Case 40: ten times the limit with a right, absent, negative or lying length, chunks without end, multipart."""
    assert small.coordinator is not None
    process = psutil.Process(small.coordinator.pid)
    before = process.memory_info().rss
    piece = ENDLESS if "chunked" in head else b"x" * 0x10000
    reply = _raw(small, head.format(blob=f"{API}/blobs/{DIGEST}"), (piece for _ in range(pieces)))
    status = reply.split(b" ", 2)[1] if reply else b""
    assert status in codes, reply
    assert process.memory_info().rss - before < 30 << 20
    assert small.is_ready()
    until("nothing of it is left", lambda: _half_written(small) == [])
    assert DIGEST not in _stored(small)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A coordinator whose blobs have at most 4 MB and whose messages 1 MB."""
    with LocalFederation(tmp_path_factory.mktemp("small")) as federation:
        limits = {"FOEDUS_COORDINATOR_BLOB_LIMIT": "4000000", "FOEDUS_COORDINATOR_BODY_LIMIT": "1000000"}
        federation.start_coordinator(**limits)
        yield federation


def test_case_12_a_bit_that_flipped_is_never_served(small: LocalFederation) -> None:
    """Case 12: a running coordinator and one that is started again refuse it, and others' blobs are served on."""
    content = os.urandom(100_000)
    with small.connection() as connection:
        digest, other = blobs.upload(connection, content), blobs.upload(connection, b"another")
        path = small.folder / "coordinator" / "blobs" / digest[:2] / digest[2:]
        data = bytearray(path.read_bytes())
        data[50_000] ^= 1
        path.write_bytes(bytes(data))
        headers = {"Authorization": f"Bearer {small.token}"}
        reply = httpx.get(f"{small.url}{API}/blobs/{digest}", headers=headers, trust_env=False)
        assert (reply.status_code, reply.json()["code"]) == (507, "blob_spoiled")
        again = httpx.get(f"{small.url}{API}/blobs/{digest}", headers=headers, trust_env=False)
        assert again.json()["code"] == "blob_unknown"
        assert blobs.download(connection, other, small.folder / "other").read_bytes() == b"another"
    log = small.folder / "coordinator.log"
    until("it is logged", lambda: b"is spoiled" in log.read_bytes())


def test_case_2_an_upload_goes_on_at_another_replica(postgres_url: str, s3_url: str, tmp_path: Path) -> None:
    """Case 2: begun at one replica, which is killed, it goes on at the other; accepted once, the same bytes come back.

    They come straight from the storage, which is set so.
    """
    with LocalFederation(tmp_path, database=postgres_url, blobs=f"{s3_url}&transfer=presigned") as federation:
        federation.start_coordinator()
        other = LocalFederation(tmp_path, database=postgres_url, blobs=federation.blobs, token=federation.token)
        other.coordinator = other.spawn_coordinator(tmp_path / "other.log", other.port)
        until("the other replica starts", other.is_ready)
        try:
            client = httpx.Client(headers={"Authorization": f"Bearer {federation.token}"}, trust_env=False, timeout=240)
            with client:
                new = {"digest": DIGEST, "size": len(CONTENT)}
                upload = client.post(f"{federation.url}{API}/uploads", json=new).json()["id"]
                path = f"{API}/uploads/{upload}"
                begun = client.patch(federation.url + path, content=CONTENT[:1_000_000], headers={"Upload-Offset": "0"})
                assert begun.json()["offset"] == 1_000_000
                assert federation.coordinator is not None
                stop_now(federation.coordinator)
                assert client.post(f"{other.url}{API}/uploads", json=new).json()["id"] == upload
                assert client.head(other.url + path).headers["upload-offset"] == "1000000"
                rest, at = CONTENT[1_000_000:], {"Upload-Offset": "1000000"}
                for _ in range(2):
                    assert client.patch(other.url + path, content=rest, headers=at).json()["complete"] is True
                reply = client.get(f"{other.url}{API}/blobs/{DIGEST}")
                assert reply.status_code == 307 and "X-Amz-Signature" in reply.headers["location"]
            with Connection(other.url, federation.token) as connection:
                assert blobs.download(connection, DIGEST, tmp_path / "back").read_bytes() == CONTENT
        finally:
            stop(other.coordinator)


def stop_now(process: subprocess.Popen[bytes]) -> None:
    """As a crash would."""
    process.send_signal(signal.SIGKILL)
    process.wait()


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory; the test is skipped for who may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """Take all the room that is left."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue
    return ballast


def test_case_13_a_full_disk_is_told_and_everything_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """Case 13: upload, transaction, log and aggregation on a full disk: 507 or 503, nothing half-done, and no loss."""
    ready = _ready(tmp_path)
    federation = LocalFederation(tmp_path)
    with _small_disk(tmp_path / "coordinator", "24m") as disk, federation:
        (tmp_path / "coordinator.log").symlink_to(disk / "log")
        federation.start_coordinator(FOEDUS_LOG_LEVEL="debug")
        for client, part in parts_of(ready, tmp_path / "parts").items():
            federation.enrol(client, part)
            federation.start_node(client)
        run = federation.submit(ready)
        for client in federation.nodes:
            until(f"{client} sees the plan", lambda c=client: list_plans(federation.home(c)))
        stored = _stored(federation)
        ballast = _fill(disk)
        client = httpx.Client(headers={"Authorization": f"Bearer {federation.token}"}, trust_env=False, timeout=240)
        with client:
            put = client.put(f"{federation.url}{API}/blobs/{DIGEST}", content=CONTENT)
            assert (put.status_code, put.json()["code"]) == (507, "disk_full")
            token = client.post(f"{federation.url}{API}/join-tokens")
            assert token.status_code in (503, 507), token.text
            assert client.get(f"{federation.url}/healthz").status_code == 200
            assert client.get(f"{federation.url}/readyz").status_code in (503, 507)
            federation.approve_all(ready.bundle.digest)  # the nodes work, and cannot bring anything
            time.sleep(2)
            assert _stored(federation) == stored
            assert [path for path in _half_written(federation) if path.stat().st_size] == []
            ballast.unlink()
            assert client.put(f"{federation.url}{API}/blobs/{DIGEST}", content=CONTENT).status_code == 201
        view = federation.finish(run)
    assert (view.status, view.model_digest) == ("completed", _expected(ready))
