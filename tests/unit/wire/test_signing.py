"""Who signed a request is known; whatever else was touched on the way is refused."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from foedus.domain.errors import AccessError, FoedusError, IntegrityError
from foedus.wire.nonces import Nonces
from foedus.wire.public_keys import generate_key, parse_public_key, public_key
from foedus.wire.signing import (
    EMPTY,
    RequestHead,
    Signer,
    Verifier,
    check_body,
    content_digest,
    hash_secret,
    new_secret,
    sign,
    verify,
    verify_head,
)

NOW = 1_800_000_000.0
KEY = bytes(range(32))
SIGNER = Signer("n_1", KEY)
BODY = hashlib.sha256(b"body").digest()
HEADERS = {"Idempotency-Key": "abc", "Upload-Offset": "8", "Accept": "text/plain"}
HEAD = RequestHead("PATCH", "/api/v1/uploads/u_1", "a=1&b=%20", HEADERS)


def verifier(not_before: float = NOW - 1000) -> Verifier:
    return Verifier(lambda key: (public_key(KEY),) if key == "n_1" else (), Nonces(), not_before)


def signed(head: RequestHead = HEAD, signer: Signer = SIGNER, now: float = NOW) -> RequestHead:
    return replace(head, headers={**head.headers, **sign(signer, head, BODY, now)})


def with_header(head: RequestHead, name: str, value: str | None) -> RequestHead:
    headers = {key: old for key, old in head.headers.items() if key.lower() != name.lower()}
    return replace(head, headers=headers if value is None else {**headers, name: value})


def code(head: RequestHead, now: float = NOW, judge: Verifier | None = None, body: bytes = BODY) -> str:
    with pytest.raises(FoedusError) as caught:
        verify(judge or verifier(), head, body, now)
    return caught.value.code


def signed_by_hand(inner: str, lines: list[str], key: bytes = KEY, label: str = "foedus") -> RequestHead:
    base = "\n".join([*lines, f'"@signature-params": {inner}']).encode()
    signature = base64.b64encode(Ed25519PrivateKey.from_private_bytes(key).sign(base)).decode()
    headers = {
        "Content-Digest": content_digest(EMPTY),
        "Signature-Input": f"{label}={inner}",
        "Signature": f"{label}=:{signature}:",
    }
    return RequestHead("POST", "/p", "", headers)


LINES = ['"@method": POST', '"@path": /p', '"@query": ?', f'"content-digest": {content_digest(EMPTY)}']
COMPONENTS = '("@method" "@path" "@query" "content-digest")'
CLAIMS = f';created={int(NOW)};keyid="n_1";alg="ed25519";nonce="{"0" * 32}"'


def test_a_signed_request_is_verified() -> None:
    verified = verify(verifier(), signed(), BODY, NOW + 1)
    assert (verified.key_id, verified.created, verified.body_sha256) == ("n_1", int(NOW), BODY)
    assert len(verified.nonce) == 32


def test_a_request_without_query_and_optional_headers_is_verified() -> None:
    head = RequestHead("GET", "/api/v1/blobs/00", "", {})
    assert verify(verifier(), signed(head), BODY, NOW).key_id == "n_1"


def test_header_names_may_change_case_on_the_way() -> None:
    head = signed()
    lower = replace(head, headers={name.lower(): value for name, value in head.headers.items()})
    assert verify(verifier(), lower, BODY, NOW).key_id == "n_1"


def test_headers_that_are_not_covered_may_change() -> None:
    assert verify(verifier(), with_header(signed(), "Accept", "other"), BODY, NOW).key_id == "n_1"


def test_a_signature_made_by_the_words_of_rfc_9421_is_verified() -> None:
    assert verify(verifier(), signed_by_hand(COMPONENTS + CLAIMS, LINES), EMPTY, NOW).nonce == "0" * 32


@pytest.mark.parametrize(
    "tampered",
    [
        replace(signed(), method="PUT"),
        replace(signed(), path="/api/v1/uploads/u_2"),
        replace(signed(), query="a=2&b=%20"),
        replace(signed(), query=""),
        with_header(signed(), "Content-Digest", content_digest(EMPTY)),
        with_header(signed(), "Idempotency-Key", "abd"),
        with_header(signed(), "Upload-Offset", "9"),
        with_header(signed(), "Idempotency-Key", None),
        with_header(signed(), "Upload-Offset", None),
        with_header(with_header(signed(), "Upload-Offset", None), "Upload-Offset", ""),
    ],
    ids=["method", "path", "query", "no query", "digest", "key", "offset", "no key", "no offset", "empty offset"],
)
def test_a_touched_component_is_refused(tampered: RequestHead) -> None:
    assert code(tampered) == "signature_invalid"


@pytest.mark.parametrize("name", ["Idempotency-Key", "Upload-Offset"])
def test_a_header_that_should_be_covered_cannot_be_added(name: str) -> None:
    head = signed(RequestHead("POST", "/p", "", {}))
    assert code(with_header(head, name, "1")) == "signature_invalid"


def test_a_query_moved_into_the_path_is_refused() -> None:
    head = signed(RequestHead("GET", "/p", "a=1", {}))
    assert code(replace(head, path="/p?a=1", query="")) == "signature_invalid"


@pytest.mark.parametrize(
    ("claims", "lines"),
    [
        (f';created={int(NOW)};keyid="n_1";nonce="{"0" * 32}"', LINES),
        (f';created={int(NOW)};keyid="n_1";alg="hmac-sha256";nonce="{"0" * 32}"', LINES),
        (f';created={int(NOW)};keyid="n_1";alg="rsa-pss-sha512";nonce="{"0" * 32}"', LINES),
        (f';keyid="n_1";alg="ed25519";nonce="{"0" * 32}"', LINES),
        (f';created={int(NOW)};keyid="n_1";alg="ed25519"', LINES),
        (f';created={int(NOW)};keyid="n_1";alg="ed25519";nonce="1"', LINES),
        (f';created={int(NOW)}.5;keyid="n_1";alg="ed25519";nonce="{"0" * 32}"', LINES),
        (CLAIMS + ";expires=1", LINES),
        (CLAIMS + ';tag="other"', LINES),
        (CLAIMS.replace('keyid="n_1"', "keyid=n_1"), LINES),
        (CLAIMS.replace('keyid="n_1";', ""), LINES),
    ],
    ids=[
        "no alg",
        "hmac",
        "rsa",
        "no created",
        "no nonce",
        "short nonce",
        "fraction",
        "expires",
        "tag",
        "token",
        "none",
    ],
)
def test_other_parameters_than_ours_are_refused(claims: str, lines: list[str]) -> None:
    assert code(signed_by_hand(COMPONENTS + claims, lines), body=EMPTY) == "signature_invalid"


@pytest.mark.parametrize("missing", range(4))
def test_a_signature_that_covers_less_is_refused(missing: int) -> None:
    names = [line.split(":")[0] for line in LINES]
    kept = [name for at, name in enumerate(names) if at != missing]
    lines = [line for at, line in enumerate(LINES) if at != missing]
    assert code(signed_by_hand(f"({' '.join(kept)}){CLAIMS}", lines), body=EMPTY) == "signature_invalid"


def test_a_signature_under_another_label_is_refused() -> None:
    assert code(signed_by_hand(COMPONENTS + CLAIMS, LINES, label="sig1"), body=EMPTY) == "signature_invalid"


def test_two_signatures_are_refused() -> None:
    head = signed_by_hand(COMPONENTS + CLAIMS, LINES)
    twice = {name: f"{value}, {value.replace('foedus=', 'b=')}" for name, value in head.headers.items()}
    twice["Content-Digest"] = head.headers["Content-Digest"]
    assert code(replace(head, headers=twice), body=EMPTY) == "signature_invalid"


def test_a_header_sent_twice_is_refused() -> None:
    head = signed()
    assert code(replace(head, headers={**head.headers, "IDEMPOTENCY-KEY": "abc"})) == "signature_invalid"


def test_a_digest_of_another_algorithm_is_refused() -> None:
    weak = "sha-512=:" + base64.b64encode(bytes(64)).decode() + ":"
    lines = [*LINES[:3], f'"content-digest": {weak}']
    head = with_header(signed_by_hand(COMPONENTS + CLAIMS, lines), "Content-Digest", weak)
    assert code(head, body=EMPTY) == "signature_invalid"


def test_a_second_use_is_a_replay() -> None:
    judge, head = verifier(), signed()
    verify(judge, head, BODY, NOW)
    assert code(head, judge=judge) == "signature_replayed"
    assert code(head, now=NOW + 59, judge=judge) == "signature_replayed"


def test_a_refused_signature_uses_up_no_nonce() -> None:
    judge, head = verifier(), signed()
    code(replace(head, path="/other"), judge=judge)
    assert verify(judge, head, BODY, NOW).key_id == "n_1"


@pytest.mark.parametrize(("late", "accepted"), [(60, True), (61, False), (-60, True), (-61, False)])
def test_the_clocks_may_differ_by_a_minute(late: int, accepted: bool) -> None:
    if accepted:
        assert verify(verifier(), signed(), BODY, NOW + late).created == int(NOW)
    else:
        assert code(signed(), now=NOW + late) == "signature_expired"


def test_what_was_signed_before_the_verifier_started_is_refused() -> None:
    judge = verifier(not_before=NOW + 0.5)
    assert code(signed(), now=NOW + 2, judge=judge) == "signature_expired"
    assert verify(judge, signed(now=NOW + 1), BODY, NOW + 2).key_id == "n_1"


def test_another_body_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        verify(verifier(), signed(), EMPTY, NOW)
    assert caught.value.code == "body_mismatch"


def test_the_head_is_judged_before_the_body_is_read() -> None:
    verified = verify_head(verifier(), signed(), NOW)
    check_body(verified, BODY)
    with pytest.raises(IntegrityError):
        check_body(verified, EMPTY)


def test_an_unknown_key_is_refused() -> None:
    assert code(signed(signer=Signer("n_2", KEY))) == "key_unknown"


def test_another_key_under_a_known_id_is_refused() -> None:
    assert code(signed(signer=Signer("n_1", generate_key()))) == "signature_invalid"


@pytest.mark.parametrize("name", ["Signature", "Signature-Input", "Content-Digest"])
def test_an_unsigned_request_is_refused(name: str) -> None:
    assert code(with_header(signed(), name, None)) == "signature_missing"


@pytest.mark.parametrize("name", ["Signature", "Signature-Input", "Content-Digest", "Idempotency-Key", "Upload-Offset"])
def test_a_header_over_its_limit_is_refused(name: str) -> None:
    assert code(with_header(signed(), name, "1" * 2000)) == "signature_invalid"


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=60))
def test_garbage_headers_are_refused(claim: str, signature: str, digest: str) -> None:
    head = replace(HEAD, headers={"Signature-Input": claim, "Signature": signature, "Content-Digest": digest})
    assert code(head) == "signature_invalid"


@given(st.sampled_from(["Signature", "Signature-Input", "Content-Digest"]), st.data())
def test_a_single_wrong_letter_is_refused(name: str, data: st.DataObject) -> None:
    head = signed()
    value = head.headers[name]
    # The last letter before base64's padding has bits that mean nothing.
    padded = len(value) - 4 if name == "Signature" else -1
    at = data.draw(st.integers(0, len(value) - 1).filter(lambda at: at != padded))
    letter = data.draw(st.characters(codec="utf-8").filter(lambda letter: letter != value[at]))
    with pytest.raises(FoedusError) as caught:
        verify(verifier(), with_header(head, name, value[:at] + letter + value[at + 1 :]), BODY, NOW)
    assert caught.value.code in {"signature_invalid", "key_unknown"}


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=10))
def test_a_garbage_target_is_refused(path: str, query: str, method: str) -> None:
    assert code(replace(signed(), path=path, query=query, method=method)) == "signature_invalid"


def test_a_node_that_has_no_id_yet_signs_under_its_public_key() -> None:
    key = generate_key()
    head = signed(signer=Signer(public_key(key), key))
    assert verify(Verifier(lambda key_id: (key_id,), Nonces(), 0), head, BODY, NOW).key_id == public_key(key)


@pytest.mark.parametrize("text", ["", "AAAA", "é" * 44, "!" * 44, public_key(bytes(32))[:-2] + "l="])
def test_a_malformed_public_key_is_refused(text: str) -> None:
    with pytest.raises(AccessError) as caught:
        parse_public_key(text)
    assert caught.value.code == "key_malformed"


def test_a_key_of_small_order_for_which_anybody_signs_is_refused() -> None:
    y = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    points = [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"\xee" + b"\xff" * 30 + b"\x7f", y]
    for point in [*points, *(point[:31] + bytes([point[31] | 0x80]) for point in points)]:
        with pytest.raises(AccessError) as caught:
            parse_public_key(base64.b64encode(point).decode())
        assert caught.value.code == "key_malformed"


def test_keys_are_new_and_their_halves_fit() -> None:
    one, two = generate_key(), generate_key()
    assert one != two and len(one) == 32
    assert parse_public_key(public_key(one)).public_bytes_raw() == base64.b64decode(public_key(one))


def test_a_signer_does_not_show_its_key() -> None:
    assert repr(KEY) not in repr(SIGNER)


def test_secrets_are_new_and_match_their_hash_alone() -> None:
    one, two = new_secret("fdj"), new_secret("fdj")
    assert one != two and one.startswith("fdj_") and one not in hash_secret(one)
    assert hash_secret(one) != hash_secret(two)
