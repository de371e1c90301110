"""A node's key is replaced while the node is at work: a new one, vouched for by the old one. Free of torch."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from foedus.domain.errors import AccessError, UsageError
from foedus.node.certificate import trust_of
from foedus.node.files import move_durably
from foedus.node.transport import Link
from foedus.node.vault import KEY, Vault
from foedus.wire.http import Retry
from foedus.wire.proofs import prove
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import Signer
from foedus.wire.trust import OVERLAP, Rotated, RotateKey, rotation

NEXT = "key.next"
RETRY = Retry(attempts=6, base=0.25, cap=2.0)


def rotate_key(home: Path, overlap: float = OVERLAP) -> Rotated:
    """Replace the node's key; for ``overlap`` seconds the coordinator accepts the old one too.

    Killed in the middle, it is done again with the same new key: whichever of the two the coordinator knows by now.

    Raises:
        NotFoundError: ``node_missing``. UsageError: ``node_not_joined``.
        AccessError, UnreachableError: as the coordinator refuses, or does not answer.
    """
    with Vault(home) as vault:
        known = vault.identity()
        if known.node is None or known.coordinator is None:
            raise UsageError("node_not_joined", "This node has joined no coordinator.", "", "Use `foedus node join`.")
        new = _next_key(home / NEXT)
        public = public_key(new)
        command = RotateKey(public_key=public, proof=prove(new, rotation(known.node, public)), overlap=overlap)
        try:
            made = asyncio.run(_rotate(home, known.coordinator, Signer(known.node, vault.private_key), command))
        except AccessError:
            # An earlier attempt may have been recorded while its reply was lost, and the old key be past its time.
            made = asyncio.run(_rotate(home, known.coordinator, Signer(known.node, new), command))
        move_durably(home / NEXT, home / KEY, "key")
        vault.record("key_rotated", public, "")
    return made


def other_key(home: Path, refused: set[bytes]) -> bytes | None:
    """A key of the node's that was not refused yet; while a rotation is under way there are two."""
    found = [bytes.fromhex(path.read_text().strip()) for path in (home / KEY, home / NEXT) if path.is_file()]
    return next((key for key in found if key not in refused), None)


async def _rotate(home: Path, url: str, signer: Signer, command: RotateKey) -> Rotated:
    async with Link(url, signer, RETRY, trust_of(home)) as link:
        return await link.retried(lambda: link.post("/node/rotate-key", command, Rotated), attempts=RETRY.attempts)


def _next_key(path: Path) -> bytes:
    """The key that an earlier attempt left, or a new one; it is on the disk before anybody hears of it."""
    if not path.exists():
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(generate_key().hex())
        move_durably(part, path, "next_key")
    return bytes.fromhex(path.read_text().strip())
