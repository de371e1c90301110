"""A node's policy: what its owner lets approved plans do. One file, read before every assignment; free of torch.

Without a file everything that an approved plan may be asked for is allowed, in a sandbox, and every plan waits for its
owner's approval. A refusal names the rule, and neither a path nor a value of the data. What leaves is looked at in
:mod:`foedus.node.leaving`, what each rule says in words is in :mod:`foedus.node.policy_words`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from foedus.domain.checkpoint import CHECKPOINTERS
from foedus.domain.errors import ConfigError, ForbiddenError, StorageError
from foedus.domain.table import Name, PositiveInt, Table, Text, read_toml, validate
from foedus.domain.training import LocalOptions
from foedus.sandbox.bubblewrap import readable, unavailable
from foedus.sandbox.limits import Limits

FILE = "policy.toml"

Hours = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Bound(Table):
    """What an option of the strategy may be: at least ``low``, at most ``high``, or one of ``values``."""

    low: Number | None = None
    high: Number | None = None
    values: list[str | bool | Number] = Field(default_factory=list, max_length=1000)


class Allow(Table):
    """What may be asked for.

    ``strategies`` are names or patterns (``fed*``). ``options``: bounds, by keys as ``local.epochs``. ``rounds``: the
    last round that is worked for. ``examples``: the smallest dataset that is worked on. ``cohort``: the fewest clients
    of a round, because an aggregate of few tells much of each. ``hours``: local time, ``20:00-06:00``.
    """

    strategies: list[Text] = Field(default_factory=lambda: ["*"], min_length=1, max_length=1000)
    options: dict[Text, Bound] = Field(default_factory=dict, max_length=1000)
    rounds: PositiveInt | None = None
    examples: PositiveInt = 1
    cohort: PositiveInt = 1
    hours: Hours | None = None


class Approval(Table):
    """Which plans are approved unread: none, those that come with foedus (``bundled``), or ``all``."""

    automatic: Literal["none", "bundled", "all"] = "none"


class Resources(Table):
    """What a run's process may take: bytes of memory and of its private folder, processes, seconds of a processor.

    ``seconds``: how long it may work on one ask, by the clock: meanwhile no other run is worked for.
    ``gpu``: whether it sees the machine's GPUs, which a sandbox never shows; ``gpu_num``: this one alone; ``gpu_only``:
    without one no work.
    ``saved``: models that a run's checkpointers may keep of each client. ``batch_size``: examples of the largest batch
    that is worked on, which the coordinator is told.
    """

    memory: Annotated[int, Field(ge=64 << 20)] = Limits.memory
    temporary: Annotated[int, Field(ge=1 << 20)] = Limits.temporary
    processes: PositiveInt = Limits.processes
    cpu_seconds: PositiveInt = Limits.cpu
    seconds: PositiveInt = 86_400
    gpu: bool = False
    gpu_num: Annotated[int, Field(ge=0, le=1023)] | None = None
    gpu_only: bool = False
    saved: Annotated[int, Field(ge=0, le=CHECKPOINTERS)] = CHECKPOINTERS
    batch_size: Annotated[int, Field(ge=1, le=2**31)] | None = None

    @property
    def limits(self) -> Limits:
        """As the sandbox takes them."""
        return Limits(memory=self.memory, temporary=self.temporary, processes=self.processes, cpu=self.cpu_seconds)


class Leave(Table):
    """What may leave the node. ``tensors`` and ``metrics`` are names or patterns (``head.*``); sizes are in bytes.

    ``update_bytes``: of one update; ``tensor_bytes``: of one tensor of it; ``metric_count``: of a contribution.
    ``logs``: whether lines of a run's work may be sent, and ``log_bytes`` how much of them in a round. ``schema``:
    whether the names of a table's columns, and of the classes in them, may be told to a run that aligns tables.
    """

    tensors: list[Text] = Field(default_factory=lambda: ["*"], max_length=1000)
    metrics: list[Text] = Field(default_factory=lambda: ["*"], max_length=1000)
    update_bytes: PositiveInt | None = None
    tensor_bytes: PositiveInt | None = None
    metric_count: PositiveInt = 1000
    logs: bool = False
    log_bytes: PositiveInt = 64 << 10
    schemas: Annotated[bool, Field(alias="schema")] = False


class Policy(Table):
    """The owner's rules. ``sandbox = "off"`` lets plans see what the node's own user sees; it is said at each start."""

    sandbox: Literal["bubblewrap", "off"] = "bubblewrap"
    approval: Approval = Approval()
    allow: Allow = Allow()
    resources: Resources = Resources()
    leave: Leave = Leave()


@dataclass(frozen=True)
class Request:
    """What an assignment asks for, as far as a policy judges it. ``cohort``: clients asked, none where nobody says.

    ``examples``: of the dataset, none where they are still to be counted. ``gpus``: the numbers of this machine's GPUs;
    ``checkpointers``: models that the run wants kept here.
    """

    strategy: Name
    options: Mapping[str, Any]
    round: int
    examples: int | None
    cohort: int | None = None
    gpus: tuple[int, ...] = ()
    checkpointers: int = 0


def read_policy(home: Path) -> Policy:
    """The policy in a node's home; the default where there is none.

    Raises:
        ConfigError: ``config_malformed``, ``config_refused``.
    """
    path = home / FILE
    return validate(Policy, read_toml(path), f"The node's {FILE}") if path.is_file() else Policy()


def largest_batch(home: Path) -> int | None:
    """Examples of the largest batch that the owner has worked on, where the policy says it and can be read."""
    try:
        return read_policy(home).resources.batch_size
    except ConfigError:  # whatever is asked then is refused, and why is said there
        return None


def check_sandbox(policy: Policy, home: Path) -> None:
    """Refuse to work where plans would have to be held and cannot be, or would be shown what lies in the home.

    Raises:
        StorageError: ``sandbox_unavailable``.
    """
    if policy.sandbox == "off":
        return
    if shown := [path for path in readable() if home.resolve().is_relative_to(path.resolve())]:
        raise StorageError(
            "sandbox_unavailable",
            "A sandbox would show every plan the node's home, and the key in it.",
            f"It lies in {shown[0]}, where programs and libraries are that plans need.",
            "Move the home to another folder.",
        )
    if why := unavailable():
        raise StorageError(
            "sandbox_unavailable",
            "This machine cannot hold a plan in a sandbox.",
            why,
            f'Install bubblewrap (apt-get install bubblewrap), or opt out in the home\'s {FILE}: sandbox = "off".',
        )


def check(policy: Policy, request: Request, now: datetime) -> None:
    """Refuse what the policy does not allow.

    Raises:
        ForbiddenError: ``policy_refused``, which names the rule.
    """
    for rule, why in broken(policy, request, now):
        raise refusal(rule, why)


def refusal(rule: str, why: str) -> ForbiddenError:
    """What a node says of a rule of its policy that was broken."""
    return ForbiddenError("policy_refused", f"The node's policy refuses this: `{rule}`.", why, "Ask its owner.")


def broken(policy: Policy, request: Request, now: datetime) -> Iterator[tuple[str, str]]:
    """Every rule that a request breaks, and in words why."""
    allow = policy.allow
    if not matches(request.strategy, allow.strategies):
        yield "allow.strategies", f"The strategy {request.strategy} is not allowed."
    for key, bound in allow.options.items():
        value = _option(request.options, key)
        if value is None:
            yield f"allow.options.{key}", "The option has bounds here, so the run has to say it."
        elif not _within(value, bound):
            yield f"allow.options.{key}", "The option is outside of its bounds."
    if allow.rounds is not None and request.round > allow.rounds:
        yield "allow.rounds", f"It works for {allow.rounds} rounds of a run."
    if request.examples is not None and request.examples < allow.examples:
        yield "allow.examples", "The dataset is too small to be worked on."
    if request.cohort is None and allow.cohort > 1:
        yield "allow.cohort", "It is not said how many clients a round asks."
    if request.cohort is not None and request.cohort < allow.cohort:
        yield "allow.cohort", f"A round has to ask {allow.cohort} clients at least."
    if allow.hours is not None and not _is_within(now.time(), allow.hours):
        yield "allow.hours", f"It works from {allow.hours.replace('-', ' to ')}, its own time."
    if request.checkpointers > policy.resources.saved:
        yield "resources.saved", f"A run keeps {policy.resources.saved} models here at most."
    if policy.resources.batch_size is not None and _batch(request.options) > policy.resources.batch_size:
        yield "resources.batch_size", f"A batch has {policy.resources.batch_size} examples here at most."
    yield from _without_gpu(policy, request.gpus)


def _without_gpu(policy: Policy, gpus: Sequence[int]) -> Iterator[tuple[str, str]]:
    took = policy.resources
    if took.gpu_only and not (gpus and took.gpu and policy.sandbox == "off"):
        yield "resources.gpu_only", "It works on a GPU only, and a plan sees none here."
    if took.gpu and took.gpu_num is not None and took.gpu_num not in gpus:
        yield "resources.gpu_num", f"Its machine has no GPU {took.gpu_num}."


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of the names or patterns.

    >>> matches("fedavg", ("fed*",)), matches("fedavg", ("fedprox",))
    (True, False)
    """
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _option(options: Mapping[str, Any], key: str) -> Any:
    """The option at a key as ``local.epochs``; none where it is not said, and so has its default."""
    found: Any = options
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _batch(options: Mapping[str, Any]) -> float:
    """Examples in a batch of the run's; a plan that does its own training has none."""
    local = options.get("local", {})
    said = local.get("batch_size", LocalOptions.model_fields["batch_size"].default)
    return 0 if set(local) <= {"options"} else said


def _within(value: Any, bound: Bound) -> bool:
    if bound.values and value not in bound.values:
        return False
    if bound.low is None and bound.high is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (bound.low is None or value >= bound.low) and (bound.high is None or value <= bound.high)


def _is_within(now: time, hours: str) -> bool:
    """Whether it is between the two, which may be over midnight."""
    begin, end = (time.fromisoformat(text) for text in hours.split("-"))
    return begin <= now < end if begin <= end else now >= begin or now < end
