"""An author's signature of a plan: a node whose owner trusts the key may approve the plan by it, unread.

It covers the plan's digest and nothing else, so it is the plan's and no run's. It lies beside the plan, in
``PLAN.signature``, and goes with a run to the coordinator and from there to the nodes. Whether a signer is trusted is
each owner's own list; no word of a coordinator's adds to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from foedus.domain.errors import IntegrityError
from foedus.wire.proofs import check_proof, prove
from foedus.wire.public_keys import public_key

FILE_LIMIT = 4096
"""Bytes of a file with a signature at most."""

SIGNERS = 16
"""Signatures of one plan, each of another key, that a node keeps."""

Key = Annotated[str, StringConstraints(min_length=44, max_length=44)]
"""An Ed25519 public key, as base64."""


class PlanSignature(BaseModel):
    """``signer`` is an Ed25519 public key, ``signature`` its signature over :func:`plan_statement`; both base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signer: Key
    signature: Annotated[str, StringConstraints(min_length=88, max_length=88)]


def plan_statement(digest: str) -> str:
    """What an author signs of a plan.

    >>> plan_statement("ab" * 32)[:24]
    'foedus: I made the plan '
    """
    return f"foedus: I made the plan {digest}"


def sign_plan(private: bytes, digest: str) -> PlanSignature:
    """The signature of a plan by the holder of a private key."""
    return PlanSignature(signer=public_key(private), signature=prove(private, plan_statement(digest)))


def check_signature(signed: PlanSignature, digest: str) -> None:
    """Check that the signature is its signer's, and of this plan.

    Raises:
        AccessError: ``key_malformed``, ``proof_refused``.
    """
    check_proof(signed.signer, plan_statement(digest), signed.signature)


def signature_path(plan: Path) -> Path:
    """Where the signature of a plan's file or folder lies: beside it.

    >>> signature_path(Path("study/plan.py")).name
    'plan.py.signature'
    """
    return plan.with_name(f"{plan.name}.signature")


def read_signature(plan: Path, digest: str) -> PlanSignature | None:
    """The signature that lies beside a plan; none where there is none.

    Raises:
        IntegrityError: ``signature_malformed``.
        AccessError: ``key_malformed``; ``proof_refused`` where the plan was changed after it was signed.
    """
    path = signature_path(plan)
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            signed = PlanSignature.model_validate_json(file.read(FILE_LIMIT))
    except ValidationError as error:
        raise IntegrityError(
            "signature_malformed",
            f"{path} is no signature of a plan.",
            "",
            "Sign the plan again with `foedus plan sign`, or remove the file.",
        ) from error
    check_signature(signed, digest)
    return signed
