"""The owner makes the node, joins, reads plans and decides on them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from foedus.domain.errors import AccessError, ConfigError, ConflictError, FoedusError, NotFoundError
from foedus.domain.plan import PlanBundle
from foedus.node.owner import approve, approved_before, identity, init, join, list_plans, register, reject, show_plan
from foedus.node.vault import PlanEntry, Vault
from foedus.wire.messages import Joined
from foedus.wire.nonces import Nonces
from foedus.wire.public_keys import public_key
from foedus.wire.signing import RequestHead, Verifier, verify
from tests.unit.client.peer import Answer, Peer, problem, serving
from tests.unit.node.support import bundle_of

TOKEN = "fdj_0123456789abcdef"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init(tmp_path / "home", "clinic-a")
    return tmp_path / "home"


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(Peer({"POST /node/join": Answer(200, Joined(node="n_7").model_dump_json().encode())})) as running:
        yield running


def offer(home: Path, bundle: PlanBundle, digest: str = "") -> str:
    with Vault(home) as vault:
        vault.bundle_path(digest or bundle.digest).write_bytes(bundle.to_bytes())
        vault.record_plan(PlanEntry(digest or bundle.digest, "study", "ada", "pending", "", 1.0, None))
    return digest or bundle.digest


def test_a_node_has_the_name_its_owner_gave(home: Path) -> None:
    assert identity(home).name == "clinic-a"
    assert identity(home).node is None


@pytest.mark.parametrize("name", ["a/b", "", "-a", "a\x1b[2J", "x" * 10_000])
def test_a_name_that_could_be_a_path_makes_no_node(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        init(tmp_path / "home", name)
    assert not (tmp_path / "home").exists()


def test_joining_sends_the_public_key_signed_with_the_private_one(home: Path, peer: Peer) -> None:
    joined = join(home, peer.url + "/", TOKEN)
    assert (joined.node, joined.coordinator) == ("n_7", peer.url)
    (request,) = peer.log
    with Vault(home) as vault:
        private = vault.private_key
    key = public_key(private)
    assert request.json() == {
        "token": TOKEN,
        "name": "clinic-a",
        "organisation": "",
        "public_key": key,
        "protocol": 1,
    }
    sent = str(request)
    assert private.hex() not in sent and base64.b64encode(private).decode() not in sent
    head = RequestHead("POST", "/api/v1/node/join", "", request.headers)
    created = int(request.headers["signature-input"].partition("created=")[2].partition(";")[0])
    verifier = Verifier(lambda found: (found,) if found == key else (), Nonces(), not_before=0)
    assert verify(verifier, head, hashlib.sha256(request.body).digest(), created).key_id == key


def test_joining_waits_out_a_coordinator_that_is_starting(home: Path, peer: Peer) -> None:
    peer.faults = [lambda _, __: Answer(503, b"", "text/html")]
    assert join(home, peer.url, TOKEN).node == "n_7"
    signatures = [request.headers["signature"] for request in peer.log]
    assert len(signatures) == len(set(signatures)) == 2


def test_a_token_that_is_refused_leaves_the_node_as_it_was(home: Path, peer: Peer) -> None:
    peer.answers["POST /node/join"] = problem(AccessError("token_used", "It was used."))
    with pytest.raises(AccessError) as caught:
        join(home, peer.url, TOKEN)
    assert caught.value.code == "token_used"
    assert identity(home).node is None


def test_a_node_joins_once(home: Path, peer: Peer) -> None:
    join(home, peer.url, TOKEN)
    with pytest.raises(ConflictError) as caught:
        join(home, peer.url, TOKEN)
    assert caught.value.code == "node_joined"


def test_another_machine_without_tls_is_refused(home: Path) -> None:
    with pytest.raises(AccessError) as caught:
        join(home, "http://198.51.100.1", TOKEN)
    assert caught.value.code == "tls_required"


def test_the_owner_reads_a_plan_before_deciding(home: Path) -> None:
    bundle = PlanBundle({"plan.py": b"x = 1\n", "lock": b"\xff\x01"}, "plan.py")
    digest = offer(home, bundle)
    entry, files = show_plan(home, digest[:6])
    assert (entry.digest, entry.state) == (digest, "pending")
    assert files == {"plan.py": "x = 1\n", "lock": "\\xff\x01"}


def test_a_plan_is_compared_with_the_one_approved_last_of_its_name_and_else_of_all(home: Path) -> None:
    plans = [(name, bundle_of(f"# {at}")) for at, name in enumerate(("fedavg-1", "study", "other", "fedavg-2"))]
    for name, bundle in plans:
        with Vault(home) as vault:
            vault.bundle_path(bundle.digest).write_bytes(bundle.to_bytes())
            vault.record_plan(PlanEntry(bundle.digest, name, "ada", "pending", "", 1.0, None))

    def compared(at: int, name: str = "") -> str:
        entry, _ = show_plan(home, plans[at][1].digest)
        before = approved_before(home, replace(entry, name=name or entry.name))
        return before[0].name if before else ""

    assert compared(3) == ""
    for at in (0, 1, 2):
        approve(home, plans[at][1].digest)
    assert compared(3) == "other", "the name that a run gets from its plan's digest is another one for each version"
    assert (compared(3, "study"), compared(2), compared(1)) == ("study", "study", "other")


def test_a_decision_is_kept_with_its_note(home: Path) -> None:
    digest = offer(home, bundle_of())
    assert approve(home, digest[:8], "read it").state == "approved"
    assert (list_plans(home)[0].note, list_plans(home)[0].decided_at is not None) == ("read it", True)
    assert reject(home, digest, "second thoughts").state == "rejected"


@pytest.mark.parametrize(
    ("digest", "code"), [("abc", "digest_malformed"), ("../..//", "digest_malformed"), ("0" * 64, "plan_unknown")]
)
def test_a_digest_that_names_no_plan_is_refused(home: Path, digest: str, code: str) -> None:
    offer(home, bundle_of())
    with pytest.raises(FoedusError) as caught:
        approve(home, digest)
    assert caught.value.code == code


def test_an_ambiguous_beginning_decides_nothing(home: Path) -> None:
    for digest in ("abcdef" + "0" * 58, "abcdef" + "1" * 58):
        offer(home, bundle_of(), digest)
    with pytest.raises(ConflictError) as caught:
        reject(home, "abcdef")
    assert caught.value.code == "digest_ambiguous"
    assert {plan.state for plan in list_plans(home)} == {"pending"}


def test_a_plan_whose_files_were_changed_here_is_not_approved(home: Path) -> None:
    digest = offer(home, bundle_of("x = 1"), bundle_of("x = 2").digest)
    with pytest.raises(NotFoundError):
        approve(home, digest)
    assert list_plans(home)[0].state == "pending"


def test_the_owner_s_own_files_stand_in_for_what_was_offered_wrongly_under_their_digest(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan.py").write_bytes(bundle_of().files["plan.py"])
    digest = bundle_of().digest
    with Vault(home) as vault:
        vault.record_plan(PlanEntry(digest, "study", "eve", "rejected", "The files are not those.", 1.0, None))
    with pytest.raises(NotFoundError):
        approve(home, digest)
    assert register(home, tmp_path / "plan.py").state == "pending"
    assert approve(home, digest).state == "approved"
    with Vault(home) as vault:
        vault.bundle_path(digest).unlink()
    assert register(home, tmp_path / "plan.py").state == "approved", "the decision was on these very bytes"
    assert show_plan(home, digest)[1]["plan.py"] == bundle_of().files["plan.py"].decode()
    with pytest.raises(ConflictError):
        register(home, tmp_path / "plan.py")


def test_a_note_is_one_short_line(home: Path) -> None:
    digest = offer(home, bundle_of())
    for note in ("x" * 501, "two\nlines", "\x1b[2J"):
        with pytest.raises(FoedusError) as caught:
            approve(home, digest, note)
        assert caught.value.code == "note_refused"
