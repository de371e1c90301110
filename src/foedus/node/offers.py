"""Plans that runs want here: fetched, checked against their digest, kept for the owner to decide on. Free of torch."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from foedus.domain.errors import AccessError, ConfigError, PlanError, TooLargeError
from foedus.domain.plan import BUNDLE_LIMIT, parse_bundle
from foedus.node.approval import settle
from foedus.node.duty import Tools
from foedus.node.files import write_durably
from foedus.node.grants import forget_plan, grant_of, keep_signature, signed_by
from foedus.node.policy import read_policy
from foedus.node.vault import PLANS, PlanEntry, Vault
from foedus.wire.messages import PlanOffer
from foedus.wire.plan_signature import SIGNERS, PlanSignature, check_signature

UNNAMED = "somebody unnamed"

_log = logging.getLogger(__name__)


def is_known(vault: Vault, offer: PlanOffer) -> bool:
    """Whether the plan is here; one that the owner registered is from now on one that a run has asked for.

    A signature that was made since may decide of a plan that waits.
    """
    state = vault.plan_state(offer.digest)
    if state is None:
        return False
    vault.asked_for(offer.digest, offer.name, offer.author or UNNAMED)
    if state == "pending" and offer.signed is not None:
        known = signed_by(vault, offer.digest)
        if offer.signed.signer not in known and len(known) < SIGNERS:
            _keep_signed(vault, offer, offer.signed)
            with suppress(ConfigError):  # of a policy that cannot be read; nothing runs by it either
                settle(vault, read_policy(vault.home))
    return True


def forget_plans(vault: Vault, seconds: float) -> None:
    """Let go of what nothing has used for so long: files of plans that were rejected, and plans approved unread whole.

    A run that wants one of these brings it again, and it is decided anew. What the owner decided stays.
    """
    known = {plan.digest: plan.state for plan in vault.plans()}
    for path in (vault.home / PLANS).iterdir():
        digest = path.name.partition(".")[0]
        state, grant = known.get(digest, "rejected"), grant_of(vault, digest)
        unread = state == "approved" and grant is not None and grant.by != "owner"
        if (unread or state == "rejected") and path.stat().st_mtime < time.time() - seconds:
            if unread:
                forget_plan(vault, digest)
            path.unlink(missing_ok=True)


async def keep_plan(tools: Tools, offer: PlanOffer) -> None:
    """Fetch an offered plan, and keep it for the owner to read; one that is not what was offered is rejected.

    Raises:
        FoedusError: where it could not be fetched. OSError: where it could not be kept.
    """
    state, note, content = "pending", "", b""
    try:
        path = await tools.cache.fetch(tools.link, offer.blob, tools.moved, limit=2 * BUNDLE_LIMIT)
        content = path.read_bytes()
        if parse_bundle(content).digest != offer.digest:
            state, note = "rejected", "The files offered are not those of this digest."
    except (PlanError, TooLargeError) as error:
        state, note = "rejected", error.what
    if state == "pending":
        write_durably(tools.vault.bundle_path(offer.digest), content, "plan")
    author = offer.author or UNNAMED
    tools.vault.record_plan(PlanEntry(offer.digest, offer.name, author, state, note, time.time(), None))
    if offer.signed is not None and state == "pending":
        _keep_signed(tools.vault, offer, offer.signed)
    settle(tools.vault, read_policy(tools.vault.home))
    _log.info("run %s wants plan %s: see `foedus node plan show %s`", offer.run, offer.digest, offer.digest[:12])


def _keep_signed(vault: Vault, offer: PlanOffer, signed: PlanSignature) -> None:
    try:
        check_signature(signed, offer.digest)
        keep_signature(vault, offer.digest, signed)
    except AccessError as error:
        _log.warning("the signature of plan %s is refused: %s", offer.digest[:12], error)
