"""The facts that a node reports of its machine. Nothing is imported for them that the agent does not need."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import foedus
from foedus.node.vault import Vault
from foedus.wire.facts import NodeFacts
from foedus.wire.messages import DatasetRefused, DatasetView, Hello, PlanApproval

log = logging.getLogger(__name__)
Told = tuple[tuple[DatasetView, ...], tuple[PlanApproval, ...]]
FRAMEWORKS = ("torch", "numpy")
MOST, SHORTEST = 1e9, 1e-3
"""The examples and the seconds within which a speed is believed."""


@cache
def node_facts() -> NodeFacts:
    """Device, cores, memory and the versions of Python and the frameworks that plans compute with.

    Client work runs on the processor.
    """
    frameworks = {"python": platform.python_version()}
    for name in FRAMEWORKS:
        try:
            frameworks[name] = version(name)
        except PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return NodeFacts(device="cpu", cores=os.cpu_count(), memory=memory, frameworks=frameworks)


def hello(
    boot: str, told: Told, speeds: Mapping[str, float], batch_size: int | None, signers: Mapping[str, tuple[str, ...]]
) -> Hello:
    """What a node says when it greets: ``told`` by its vault, with its facts and each client's last speed.

    ``batch_size``: examples of the largest batch that it works on; ``signers``: whose signatures it has of each plan
    that waits.
    """
    facts = {each.client: {"speed": speeds.get(each.client), "batch_size": batch_size} for each in told[0]}
    datasets = tuple(each.model_copy(update=facts[each.client]) for each in told[0])
    approvals = tuple(each.model_copy(update={"signers": signers.get(each.digest)}) for each in told[1])
    return Hello(boot=boot, version=foedus.__version__, datasets=datasets, approvals=approvals, facts=node_facts())


def speed_of(examples: float, seconds: float) -> float | None:
    """Examples per second, where the two numbers, which are a plan's, can be believed: each greeting says it.

    >>> speed_of(500.0, 2.0), speed_of(1e300, 2.0), speed_of(500.0, 0.0)
    (250.0, None, None)
    """
    return examples / seconds if 1.0 <= examples <= MOST and seconds >= SHORTEST else None


def tell_refused(vault: Vault, refused: Sequence[DatasetRefused], known: frozenset[str]) -> frozenset[str]:
    """Tell the owner, once, which datasets the coordinator does not take; returns them."""
    for one in refused:
        if one.client not in known:
            vault.record("dataset_refused", one.client, f"{one.code}: {one.reason}")
            log.warning("dataset %s is not taken: %s", one.client, one.reason)
    return frozenset(one.client for one in refused)
