"""A phase's contributions, as their rows name them, become the state after it; what goes wrong says so by one code."""

from __future__ import annotations

from foedus.coordinator.folding import Closed, Closing, Given, fold_and_close
from foedus.coordinator.live import Live, RunRow
from foedus.coordinator.orders import Answers
from foedus.domain.errors import FoedusError, RunFailedError
from foedus.domain.round import PhaseOrder
from foedus.store.artifacts import Artifacts


def aggregate(live: Live, run: RunRow, order: PhaseOrder, found: Answers, *, untested: bool = False) -> Closed:
    """Fold what counts, in canonical order, and take the strategy's step; a redo gives the same bytes.

    Raises:
        RunFailedError: ``aggregation_failed``.
    """
    artifacts = live.artifacts
    try:
        strategy = live.strategy(run)
        parts = {part: artifacts.path(digest) for part, digest in run.parts.items()}
        given = {} if untested else _given(artifacts, found)
        closing = Closing(strategy, order, parts, run.data, given, found.receipts)
        return fold_and_close(closing, artifacts.temporary)
    except Exception as error:
        why = f"{error.code}: {error}" if isinstance(error, FoedusError) else f"{type(error).__name__}: {error}"
        raise RunFailedError(
            "aggregation_failed",
            f"The contributions to the phase {order.phase} of round {order.round} could not be aggregated.",
            why,
            "Mend that, then `foedus run retry` aggregates them anew.",
        ) from error


def _given(artifacts: Artifacts, found: Answers) -> dict[str, Given]:
    return {
        receipt.client: Given(
            artifacts.path(found.updates[receipt.client]) if receipt.client in found.updates else None, receipt.weights
        )
        for receipt in found.counted
    }
