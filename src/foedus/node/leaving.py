"""What may leave a node: the owner's policy over an update's tensors and a contribution's metrics. Free of torch.

It is looked at in the agent, after a run's process has made it and before a byte of it is sent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from foedus.domain.header import WIDTHS, TensorSpec, read_header
from foedus.node.policy import Leave, matches, refusal


def check_leaving(leave: Leave, update: Path | None, metrics: Collection[str]) -> None:
    """Refuse to send what the policy keeps here. ``update`` is a safetensors file, none where there is none.

    Raises:
        ForbiddenError: ``policy_refused``, which names the rule.
        IntegrityError, TooLargeError: where the update is no such file.
    """
    tensors: Mapping[str, TensorSpec] = {}
    if update is not None:
        with update.open("rb") as file:
            tensors = {name: entry.spec for name, entry in read_header(file).entries.items()}
    for rule, why in kept(leave, tensors, metrics):
        raise refusal(rule, why)


def kept(leave: Leave, tensors: Mapping[str, TensorSpec], metrics: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every rule by which something may not leave, and in words why; names of tensors are as the model has them.

    >>> next(kept(Leave(metric_count=1), {}, ["loss", "accuracy"]))
    ('leave.metric_count', 'The work made 2 metrics; 1 may leave.')
    """
    sizes = {name: math.prod(spec.shape) * WIDTHS[spec.dtype] for name, spec in tensors.items()}
    withheld = [name for name in tensors if not matches(_plain(name), leave.tensors)]
    if withheld:
        yield "leave.tensors", f"{len(withheld)} of the update's {len(tensors)} tensors may not leave."
    if leave.tensor_bytes is not None and (largest := max(sizes.values(), default=0)) > leave.tensor_bytes:
        yield "leave.tensor_bytes", f"A tensor has {largest} bytes; {leave.tensor_bytes} may leave."
    if leave.update_bytes is not None and (total := sum(sizes.values())) > leave.update_bytes:
        yield "leave.update_bytes", f"The update has {total} bytes; {leave.update_bytes} may leave."
    if not all(matches(name, leave.metrics) for name in metrics):
        yield "leave.metrics", "The work made a metric that may not leave."
    if len(metrics) > leave.metric_count:
        yield "leave.metric_count", f"The work made {len(metrics)} metrics; {leave.metric_count} may leave."


def _plain(name: str) -> str:
    """A tensor's name without the part of the update that it is in (``update/0.weight``)."""
    return name.partition("/")[2] or name
