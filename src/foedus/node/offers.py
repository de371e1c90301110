"""Plans that runs want here: fetched, checked against their digest, kept for the owner to decide on. Free of torch."""

from __future__ import annotations

import logging
import time

from foedus.domain.errors import PlanError, TooLargeError
from foedus.domain.plan import BUNDLE_LIMIT, parse_bundle
from foedus.node.duty import Tools
from foedus.node.files import write_durably
from foedus.node.vault import PlanEntry
from foedus.wire.messages import PlanOffer

_log = logging.getLogger(__name__)


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
    now = time.time()
    tools.vault.record_plan(PlanEntry(offer.digest, offer.name, offer.author, state, note, now, None))
    _log.info("run %s wants plan %s: see `foedus node plan show %s`", offer.run, offer.digest, offer.digest[:12])
