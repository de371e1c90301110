"""Errors arrive as themselves, passing troubles are tried again, and a POST happens once."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from foedus.client.http import Connection, identified
from foedus.domain.errors import AccessError, PlanError, QuorumError, UnreachableError, UsageError
from foedus.wire.http import Retry
from foedus.wire.messages import JoinToken, NodeList
from tests.unit.client.peer import Answer, Peer, Request, problem

NODES = Answer(body=b'{"nodes": []}')


def busy(_: Request, __: Answer) -> Answer:
    return Answer(503, b"<html>", "text/html")


def broken(_: Request, answer: Answer) -> Answer:
    return Answer(answer.status, answer.body, answer.kind, answer.headers, cut=2)


def test_a_message_is_fetched_with_the_token(peer: Peer, connection: Connection) -> None:
    peer.answers["GET /nodes"] = NODES
    assert connection.get("/nodes", NodeList) == NodeList(nodes=())
    assert peer.log[0].headers["authorization"] == "Bearer fdp_0123456789abcdef"


def test_a_problem_is_raised_as_the_error_that_it_was(peer: Peer, connection: Connection) -> None:
    peer.answers["GET /nodes"] = problem(QuorumError("too_few", "Too few.", "Three are away.", "Wait."))
    with pytest.raises(QuorumError) as caught:
        connection.get("/nodes", NodeList)
    assert (caught.value.code, caught.value.why, caught.value.fix) == ("too_few", "Three are away.", "Wait.")
    assert len(peer.log) == 1


def test_one_status_can_mean_several_errors(peer: Peer, connection: Connection) -> None:
    peer.answers["GET /nodes"] = problem(PlanError("plan_malformed", "No plan."))
    with pytest.raises(PlanError):
        connection.get("/nodes", NodeList)


@pytest.mark.parametrize("fault", [busy, broken])
def test_passing_troubles_are_tried_again(peer: Peer, connection: Connection, fault: object) -> None:
    peer.answers["GET /nodes"] = NODES
    peer.faults = [fault, fault, fault]  # type: ignore[list-item]
    assert connection.get("/nodes", NodeList).nodes == ()
    assert len(peer.log) == 4


def test_tries_are_bounded(peer: Peer, connection: Connection) -> None:
    peer.answers["GET /nodes"] = Answer(503, b"", "text/html")
    with pytest.raises(UnreachableError) as caught:
        connection.get("/nodes", NodeList)
    assert caught.value.code == "http_503"
    assert len(peer.log) == 4


def test_a_retried_post_repeats_its_idempotency_key(peer: Peer, connection: Connection) -> None:
    token = b'{"token": "fdj_0123456789abcdef", "expires_at": "2030-01-01T00:00:00Z"}'
    peer.answers["POST /join-tokens"] = Answer(body=token)
    peer.faults = [broken]
    connection.post("/join-tokens", JoinToken)
    connection.post("/join-tokens", JoinToken)
    first, again, other = (request.headers["idempotency-key"] for request in peer.log)
    assert first == again != other


def test_nobody_there_is_told_with_the_url() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with Connection(url, "token", Retry(attempts=2, base=0.0)) as alone, pytest.raises(UnreachableError) as caught:
            alone.get("/nodes", NodeList)
    assert caught.value.code == "coordinator_unreachable"
    assert url in caught.value.what and caught.value.fix


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"<html>"),
        Answer(body=b'{"nodes": [{"id": "n_1"}]}'),
        Answer(302, headers={"Location": "https://example.org"}),
        Answer(404, b"<html>", "text/html"),
    ],
)
def test_another_server_is_told_at_once(peer: Peer, connection: Connection, answer: Answer) -> None:
    peer.answers["GET /nodes"] = answer
    with pytest.raises(UnreachableError) as caught:
        connection.get("/nodes", NodeList)
    assert caught.value.code == "answer_malformed"
    assert len(peer.log) == 1


def test_a_reply_over_the_limit_is_refused(peer: Peer, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foedus.client.http.REPLY_LIMIT", 4)
    peer.answers["GET /nodes"] = NODES
    with pytest.raises(UnreachableError) as caught:
        connection.get("/nodes", NodeList)
    assert caught.value.code == "answer_malformed"


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(hours=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "both.pem").write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


def test_a_certificate_that_nobody_trusts_is_told_at_once(tmp_path: Path) -> None:
    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError), listening.accept()[0] as accepted:
            self_signed(tmp_path).wrap_socket(accepted, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        url = f"https://localhost:{listening.getsockname()[1]}"
        with Connection(url, "token") as unsafe, pytest.raises(UnreachableError) as caught:
            unsafe.get("/nodes", NodeList)
        thread.join()
    assert caught.value.code == "tls_failed"
    assert "FOEDUS_CA_FILE" in caught.value.fix


def test_a_token_never_goes_out_without_tls() -> None:
    with pytest.raises(AccessError) as caught:
        Connection("http://example.org", "token")
    assert caught.value.code == "tls_required"


@pytest.mark.parametrize("token", ["", "a b", "a\n", "ä", "a" * 201])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(AccessError) as caught:
        Connection("http://127.0.0.1:1", token)
    assert caught.value.code == "token_malformed" and (not token or token not in str(caught.value))


@pytest.mark.parametrize("identity", ["", "..", "r_1/../../tokens", "r_1?a=1", "r_A"])
def test_what_is_no_id_never_gets_into_a_path(identity: str) -> None:
    with pytest.raises(UsageError) as caught:
        identified("run", identity)
    assert caught.value.code == "id_malformed"
