"""What a node's owner does: make the node, join a coordinator, look at plans and decide on them. Free of torch.

To add a dataset its file is read: that is in :mod:`foedus.node.datasets`, and needs torch.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from pathlib import Path

from foedus.domain.errors import ConflictError, FoedusError, NotFoundError, UsageError
from foedus.domain.names import check_name
from foedus.domain.plan import PlanBundle, parse_bundle, read_bundle
from foedus.node.approval import settle
from foedus.node.certificate import trust_of
from foedus.node.files import write_durably
from foedus.node.grants import Answer, Signer, answer, distrust, grant_of, keep_signature, signed_by, signers, trust
from foedus.node.noticing import forget_client
from foedus.node.policy import read_policy
from foedus.node.review import shown
from foedus.node.scope import UNBOUNDED, Scope
from foedus.node.transport import Link
from foedus.node.vault import Dataset, Identity, PlanEntry, Vault, create_home
from foedus.wire.http import Retry, check_url
from foedus.wire.messages import Joined, JoinNode
from foedus.wire.plan_signature import read_signature
from foedus.wire.public_keys import public_key
from foedus.wire.signing import Signer as RequestSigner
from foedus.wire.trust import fingerprint_of

PREFIX = re.compile(r"[0-9a-f]{6,64}")
NOTE_LIMIT = 500
JOIN_RETRY = Retry(attempts=6, base=0.25, cap=2.0)


def init(home: Path, name: str) -> Identity:
    """Make a node: its home, its key and its name.

    Raises:
        ConfigError: ``name_refused``.
        ConflictError: ``node_exists``.
    """
    create_home(home, check_name(name, "node"))
    return identity(home)


def identity(home: Path) -> Identity:
    """Who the node is.

    Raises:
        NotFoundError: ``node_missing``.
    """
    with Vault(home) as vault:
        return vault.identity()


def join(home: Path, coordinator_url: str, token: str, organisation: str = "") -> Identity:
    """Enrol with a one-use token: the node's public key and name go to the coordinator, the private key stays.

    ``organisation`` is the one that the owner thinks to join for; a token that was made for another is refused.

    Raises:
        ConfigError: ``url_malformed``. AccessError: ``tls_required``, or as the coordinator refuses.
        ConflictError: ``node_joined``.
        UnreachableError: where the coordinator does not answer.
    """
    with Vault(home) as vault:
        known, url = vault.identity(), check_url(coordinator_url)
        if known.node is not None:
            raise ConflictError(
                "node_joined", f"This node has joined {known.coordinator} as {known.node}.", "", "Make another node."
            )
        if not 16 <= len(token) <= 200:
            raise UsageError("token_malformed", "This is not a join token.", "", "Give the token as it was shown.")
        private = vault.private_key
        key = public_key(private)
        message = JoinNode(token=token, name=known.name, organisation=organisation, public_key=key)
        joined = asyncio.run(_join(home, url, RequestSigner(key, private), message))
        vault.joined(joined.node, url)
        return vault.identity()


async def _join(home: Path, url: str, signer: RequestSigner, message: JoinNode) -> Joined:
    async with Link(url, signer, JOIN_RETRY, trust_of(home)) as link:
        return await link.retried(lambda: link.post("/node/join", message, Joined), attempts=JOIN_RETRY.attempts)


def list_plans(home: Path) -> tuple[PlanEntry, ...]:
    """Every plan that was offered, the newest first."""
    with Vault(home) as vault:
        return vault.plans()


def show_plan(home: Path, digest: str) -> tuple[PlanEntry, dict[str, str]]:
    """A plan by its digest or a beginning of it, and its files as :func:`foedus.node.review.shown`.

    Raises:
        UsageError: ``digest_malformed``. NotFoundError: ``plan_unknown``. ConflictError: ``digest_ambiguous``.
        IntegrityError, PlanError: where the bundle kept is not that plan any more.
    """
    with Vault(home) as vault:
        entry = _find(vault, digest)
        files = read_plan(vault, entry.digest).files
        return entry, {name: shown(content) for name, content in files.items()}


def approved_before(home: Path, plan: PlanEntry) -> tuple[PlanEntry, dict[str, str]] | None:
    """The plan that was approved last, and its files: of those of the same name, else of all; none if there is none.

    A run without a name of its own is called by its plan's digest, so another version of its plan has another name.

    Raises:
        IntegrityError, PlanError: where the bundle kept is not that plan any more.
    """
    with Vault(home) as vault:
        approved = [other for other in vault.plans() if other.state == "approved" and other.digest != plan.digest]
        if not approved:
            return None
        last = max(approved, key=lambda other: (other.name == plan.name, other.decided_at or 0.0))
    return show_plan(home, last.digest)


@dataclass(frozen=True)
class Standing:
    """What is known of a plan's approval: how it was given and how far it goes, and the keys that have signed it.

    ``signed``: the author whom the owner trusts, or the key's fingerprint.
    """

    grant: Answer | None
    signed: tuple[str, ...]


def standing(home: Path, digest: str) -> Standing:
    """How a plan's approval stands."""
    with Vault(home) as vault:
        known = {signer.key: signer.name for signer in signers(vault)}
        keys = signed_by(vault, digest)
        signed = tuple(known.get(key) or f"{fingerprint_of(key)}, whom this node does not trust" for key in keys)
        return Standing(grant_of(vault, digest), signed)


def approve(home: Path, digest: str, note: str = "", scope: Scope = UNBOUNDED) -> PlanEntry:
    """Allow this plan, by its digest or a beginning of it, to run here as far as ``scope`` goes.

    Raises:
        As :func:`show_plan`.
    """
    return _decide(home, digest, Answer("approved", note, scope=scope))


def reject(home: Path, digest: str, note: str = "") -> PlanEntry:
    """Refuse this plan, also where it was approved before: then it stops soon. The note is told to its author.

    Raises:
        As :func:`show_plan`.
    """
    return _decide(home, digest, Answer("rejected", note))


def register(home: Path, path: Path) -> PlanEntry:
    """Bring a plan's file or folder to the node before any run asks for it, with its signature where one is beside it.

    Raises:
        PlanError, TooLargeError: as :func:`foedus.domain.plan.read_bundle`. ConflictError: ``plan_registered``.
        IntegrityError, AccessError: as :func:`foedus.wire.plan_signature.read_signature`.
    """
    bundle = read_bundle(path)
    digest, signed = bundle.digest, read_signature(path, bundle.digest)
    with Vault(home) as vault:
        state = vault.plan_state(digest)
        if state is None or not _is_here(vault, digest):
            write_durably(vault.bundle_path(digest), bundle.to_bytes(), "plan")
            vault.record_plan(PlanEntry(digest, path.absolute().name, "", "pending", "", time.time(), None))
            if state == "rejected":  # what a coordinator offered under this digest may have been something else
                answer(vault, digest, Answer("pending", "its files were registered"))
        elif state != "pending" or signed is None:
            why = "A plan is its bytes: the same bytes are the same plan, whatever their file is called."
            raise ConflictError("plan_registered", f"Plan {digest[:12]} is here already, and is {state}.", why)
        if signed is not None:
            keep_signature(vault, digest, signed)
        settle(vault, read_policy(home))
        return _find(vault, digest)


def trust_author(home: Path, name: str, key: str, scope: Scope = UNBOUNDED) -> Signer:
    """Have plans that this key signs be approved by that, as far as ``scope`` goes; also those that wait already.

    Raises:
        ConfigError: ``name_refused``. AccessError: ``key_malformed``.
        ConflictError: ``signer_exists``, ``too_many_signers``.
    """
    with Vault(home) as vault:
        made = trust(vault, check_name(name, "author"), key, scope)
        settle(vault, read_policy(home))
        return made


def distrust_author(home: Path, name: str) -> Signer:
    """Trust an author no longer; what their signature approved is revoked.

    Raises:
        NotFoundError: ``signer_unknown``.
    """
    with Vault(home) as vault:
        return distrust(vault, name)


def list_authors(home: Path) -> tuple[Signer, ...]:
    """The authors whom the owner trusts, by name."""
    with Vault(home) as vault:
        return signers(vault)


def read_plan(vault: Vault, digest: str) -> PlanBundle:
    """The bundle of a plan, as it was offered.

    Raises:
        NotFoundError: ``plan_unknown`` where it is not here, or not that plan any more.
    """
    path = vault.bundle_path(digest)
    if path.is_file() and (bundle := parse_bundle(path.read_bytes())).digest == digest:
        return bundle
    raise NotFoundError("plan_unknown", f"The files of plan {digest[:12]} are not on this node.")


def _is_here(vault: Vault, digest: str) -> bool:
    try:
        read_plan(vault, digest)
    except FoedusError:
        return False
    return True


def _decide(home: Path, digest: str, given: Answer) -> PlanEntry:
    if len(given.note) > NOTE_LIMIT or not given.note.isprintable():
        raise UsageError("note_refused", f"A note is one line of at most {NOTE_LIMIT} characters.")
    with Vault(home) as vault:
        entry = _find(vault, digest)
        if given.state == "approved":
            read_plan(vault, entry.digest)
        answer(vault, entry.digest, given)
        return _find(vault, entry.digest)


def _find(vault: Vault, digest: str) -> PlanEntry:
    if not PREFIX.fullmatch(digest):
        raise UsageError(
            "digest_malformed", f"{digest[:80]!a} is not a plan's digest.", "", "Give 6 to 64 of its hex digits."
        )
    found = [plan for plan in vault.plans() if plan.digest.startswith(digest)]
    if not found:
        raise NotFoundError(
            "plan_unknown", f"No plan {digest} was offered to this node.", "", "See `foedus node plan list`."
        )
    if len(found) > 1:
        raise ConflictError("digest_ambiguous", f"{len(found)} plans begin with {digest}.", "", "Give more digits.")
    return found[0]


def list_datasets(home: Path) -> tuple[Dataset, ...]:
    """The datasets on offer, by name."""
    with Vault(home) as vault:
        return vault.datasets()


def remove_dataset(home: Path, name: str) -> None:
    """Offer a dataset no longer; its file stays, and what the node kept of its rows for runs goes.

    Raises:
        NotFoundError: ``dataset_unknown``.
    """
    with Vault(home) as vault:
        vault.remove_dataset(name)
        forget_client(vault, name)
