"""The messages of identity: keys that are replaced, logins, join tokens that are bound. See :mod:`.messages`.

================================  ========  ============================  ==========================================
path                              by        message → reply               what
================================  ========  ============================  ==========================================
POST /join-tokens                 admin     NewJoinToken → JoinToken      for one node; without a body, any
POST /node/rotate-key             node      RotateKey → Rotated           signed with the old key or the new one
POST /login/device                anybody   → DeviceLogin                 a login at a terminal begins
POST /login/device/poll           anybody   PollLogin → LoginState        the token, once the person has agreed
POST /logout                      people    → LoggedOut                   the token or session ends
GET /whoami                       people    → Whoami
================================  ========  ============================  ==========================================

``GET /login`` sends a browser to the login provider and ``GET /login/callback`` takes it back; both are at the root.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from foedus.wire.messages import Digest, Id, Line, Message, Name, Secret

PublicKey = Annotated[str, StringConstraints(min_length=44, max_length=44)]
OVERLAP = 600.0
"""Seconds for which a replaced key is still accepted where nothing else is asked."""


class NewJoinToken(Message):
    """Ask for a join token. It is for the node of this name, of this organisation; for any where they are empty."""

    organisation: Name | Literal[""] = ""
    name: Name | Literal[""] = ""
    hours: Annotated[float, Field(gt=0, le=24 * 14, allow_inf_nan=False)] = 24.0


class RotateKey(Message):
    """Replace the node's key. ``proof`` is the new key's signature over :func:`rotation`; overlap in seconds."""

    public_key: PublicKey
    proof: Annotated[str, StringConstraints(min_length=88, max_length=88)]
    overlap: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = OVERLAP


class Rotated(Message):
    """The new key is the node's; the old one is accepted for ``overlap`` more seconds."""

    node: Id
    overlap: float


def rotation(node: str, public_key: str) -> str:
    """What a new key signs: that it is to be this node's."""
    return f"foedus: {public_key} is the next key of {node}"


class Kit(Message):
    """What a site needs to join, and no private key: whom to join, as what, with which one-use token.

    ``authority`` is the PEM of who signed the coordinator's certificate, empty where the system trusts it already;
    ``fingerprint`` is the SHA-256 of that certificate, to compare with what the coordinator's operator says.
    """

    format: Literal[1] = 1
    name: Name
    organisation: Name | Literal[""] = ""
    coordinator: Annotated[Line, StringConstraints(max_length=1000)]
    authority: Annotated[str, StringConstraints(max_length=65536)] = ""
    fingerprint: Digest | Literal[""] = ""
    token: Secret
    expires_at: datetime


class SignedKit(Message):
    """A kit's text exactly as it was signed, by whom (an Ed25519 key), and the signature over :func:`kit_statement`."""

    kit: Annotated[str, StringConstraints(max_length=100_000)]
    signer: PublicKey
    signature: Annotated[str, StringConstraints(min_length=88, max_length=88)]


def kit_statement(kit: str) -> str:
    """What the signature of a kit is over."""
    return f"foedus kit 1\n{kit}"


def fingerprint_of(signer: str) -> str:
    """A public key as people compare it: the first 16 bytes of its SHA-256, in groups of four hex digits."""
    digits = hashlib.sha256(signer.encode()).hexdigest()[:32]
    return "-".join(digits[at : at + 4] for at in range(0, 32, 4))


class DeviceLogin(Message):
    """Open ``url``, compare the code, and agree. Ask again every ``interval`` seconds, with ``device``."""

    device: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    code: Annotated[Line, StringConstraints(max_length=100)]
    url: Annotated[Line, StringConstraints(max_length=1000)]
    expires_in: int
    interval: int


class PollLogin(Message):
    """Has the person agreed?"""

    device: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[!-~]+$")]


class LoginState(Message):
    """``pending``: ask again after ``interval``; ``slow_down``: and wait longer; ``done``: here is the token."""

    state: Literal["pending", "slow_down", "done"]
    token: Secret | None = None
    name: str = ""


class Whoami(Message):
    """Who the caller is to the coordinator."""

    name: str
    role: str
    organisation: str = ""


class LoggedOut(Message):
    """The token that the request came with is of no use any more."""

    name: str
