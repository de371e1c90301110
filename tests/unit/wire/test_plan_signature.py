"""An author's signature of a plan holds for that plan, by that key, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus.domain.errors import AccessError, IntegrityError
from foedus.domain.plan import read_bundle
from foedus.wire.plan_signature import check_signature, read_signature, sign_plan, signature_path
from foedus.wire.proofs import prove
from foedus.wire.public_keys import generate_key, public_key

DIGEST, PRIVATE = "a" * 64, bytes(range(32))


def test_a_signature_is_of_one_plan_and_one_key() -> None:
    signed = sign_plan(PRIVATE, DIGEST)
    check_signature(signed, DIGEST)
    other = public_key(generate_key())
    wrong = (
        (signed, "b" * 64),
        (signed.model_copy(update={"signer": other}), DIGEST),
        (signed.model_copy(update={"signature": prove(PRIVATE, DIGEST)}), DIGEST),
        (signed.model_copy(update={"signature": signed.signature[:-4] + "AA=="}), DIGEST),
    )
    for bad, digest in wrong:
        with pytest.raises(AccessError) as caught:
            check_signature(bad, digest)
        assert caught.value.code == "proof_refused"


def test_the_signature_lies_beside_the_plan_and_is_refused_when_the_plan_has_changed(tmp_path: Path) -> None:
    plan = tmp_path / "plan.py"
    plan.write_text("x = 1\n")
    digest = read_bundle(plan).digest
    assert read_signature(plan, digest) is None
    signature_path(plan).write_text(sign_plan(PRIVATE, digest).model_dump_json())
    assert read_bundle(plan).digest == digest
    assert read_signature(plan, digest) == sign_plan(PRIVATE, digest)
    plan.write_text("x = 1 \n")
    with pytest.raises(AccessError):
        read_signature(plan, read_bundle(plan).digest)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 5000, b'{"signer": "x", "signature": "y"}'])
def test_what_is_no_signature_is_refused(tmp_path: Path, content: bytes) -> None:
    signature_path(tmp_path / "plan.py").write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        read_signature(tmp_path / "plan.py", DIGEST)
    assert caught.value.code == "signature_malformed"
