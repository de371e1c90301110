"""A node's policy in words: what ``foedus node policy check`` says each rule means. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator

from foedus.domain.text import duration, size
from foedus.node.policy import Allow, Bound, Leave, Policy, Resources

UNREAD = {
    "none": "plans run once the owner of the data, or an author whom that owner trusts, has approved them",
    "bundled": "plans that come with foedus are approved unread",
    "all": "every plan is approved unread",
}


def explained(policy: Policy) -> list[tuple[str, str]]:
    """Every rule, and what it means.

    >>> explained(Policy())[0]
    ('sandbox', 'plans are held, without a network, and see nothing but their own files and dataset')
    """
    off = "none: plans see and reach what the node's own user does"
    held = "plans are held, without a network, and see nothing but their own files and dataset"
    return [
        ("sandbox", held if policy.sandbox == "bubblewrap" else off),
        ("approval.automatic", UNREAD[policy.approval.automatic]),
        *_asked(policy.allow),
        *_taken(policy.resources, policy.sandbox == "bubblewrap"),
        *_sent(policy.leave),
    ]


def _asked(allow: Allow) -> Iterator[tuple[str, str]]:
    yield "allow.strategies", "every strategy" if allow.strategies == ["*"] else ", ".join(allow.strategies)
    for key, bound in sorted(allow.options.items()):
        yield f"allow.options.{key}", _bounds(bound)
    yield "allow.rounds", f"the first {allow.rounds} rounds of a run" if allow.rounds else "every round"
    yield "allow.examples", f"a dataset of {allow.examples} example{'s' if allow.examples > 1 else ''} or more"
    yield "allow.cohort", f"rounds that ask {allow.cohort} client{'s' if allow.cohort > 1 else ''} or more"
    hours = f"from {allow.hours.replace('-', ' to ')}, this machine's time" if allow.hours else "at any hour"
    yield "allow.hours", hours


def _taken(took: Resources, held: bool) -> Iterator[tuple[str, str]]:
    yield "resources.memory", f"{size(took.memory)} for a run's process"
    yield "resources.temporary", f"{size(took.temporary)} in its private folder"
    yield "resources.processes", f"{took.processes} processes and threads"
    yield "resources.cpu_seconds", f"{duration(took.cpu_seconds)} of a processor, in all"
    yield "resources.seconds", f"{duration(took.seconds)} by the clock for one piece of work"
    which = "every GPU of this machine" if took.gpu_num is None else f"GPU {took.gpu_num}"
    seen = "no GPU is seen: a sandbox shows none" if held else f"{which} is seen"
    yield "resources.gpu", seen if took.gpu else "no GPU is seen"
    yield "resources.saved", f"{took.saved} models that a run keeps here of each client"
    if took.batch_size is not None:
        yield "resources.batch_size", f"batches of {took.batch_size} examples or fewer; coordinators are told"
    if took.gpu_only:
        yield "resources.gpu_only", "no work on a machine without a GPU"


def _sent(leave: Leave) -> Iterator[tuple[str, str]]:
    yield "leave.tensors", "every tensor of an update" if leave.tensors == ["*"] else ", ".join(leave.tensors) or "none"
    if leave.update_bytes is not None:
        yield "leave.update_bytes", f"{size(leave.update_bytes)} for an update at most"
    if leave.tensor_bytes is not None:
        yield "leave.tensor_bytes", f"{size(leave.tensor_bytes)} for one tensor at most"
    yield "leave.metrics", "every metric" if leave.metrics == ["*"] else ", ".join(leave.metrics) or "none"
    yield "leave.metric_count", f"{leave.metric_count} metrics of a contribution at most"
    logs = f"{size(leave.log_bytes)} of a round's log lines at most" if leave.logs else "no log line leaves"
    yield "leave.logs", logs
    names = "names of a table's columns, and of the classes in them"
    yield "leave.schema", names if leave.schemas else f"no {names}"


def _bounds(bound: Bound) -> str:
    low = [f"{bound.low:g} or more"] if bound.low is not None else []
    high = [f"{bound.high:g} or less"] if bound.high is not None else []
    return ", ".join([*low, *high, *(["one of " + ", ".join(map(str, bound.values))] if bound.values else [])])
