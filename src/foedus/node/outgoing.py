"""What may leave a node, checked in the agent before anything is sent: what a work process says is a stranger's word.

Names, shapes and counts are fixed before the work begins, by the ask and by the model that it goes out from, so that
nothing about the data can be in them. Of an update's file every byte before the elements is what we would have written
ourselves. What remains are the numbers that were asked for. Free of torch.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from foedus.domain.errors import ForbiddenError, IntegrityError, PlanError, TooLargeError
from foedus.domain.explained import pages
from foedus.domain.header import TensorSpec, layout, read_header
from foedus.domain.plan import parse_bundle
from foedus.node.frames import Done, Failed, Order, Stepped
from foedus.node.reasons import OURS, SENTENCES, failure, failure_of, placed

WORDS = re.compile(rb"[A-Za-z_][A-Za-z_0-9]*")
PART = re.compile(r"[a-z_]{1,32}")
"""What a part may be called where a coordinator of before does not name the parts."""

TIMED = frozenset({"prepare", "before", "work", "after"})
"""What the seconds of work are told of."""

LONGEST = 1e9
"""Seconds of work that can be told."""


def checked(order: Order, said: Done | Failed, update: Path) -> Done | Failed:
    """What a work process said, as far as it may leave; ``update`` is the file of what it made."""
    if isinstance(said, Failed):
        return check_failed(order, said)
    try:
        check_done(order, said, update)
    except (ForbiddenError, IntegrityError) as error:
        return failure_of(error)
    return said


def check_done(order: Order, done: Done, update: Path) -> None:
    """Refuse what an ask did not ask for.

    Raises:
        ForbiddenError: ``output_refused``. IntegrityError: ``not_safetensors``. TooLargeError: ``header_too_large``.
    """
    sends = order.assignment.sends
    if max(done.seconds, *done.timings.values(), 0.0) > LONGEST or not done.timings.keys() <= TIMED:
        raise _refused("It says that it took longer than can be, or for what nobody asked.")
    if sends is not None:
        for what, names, known in (("metric", done.metrics, sends.metrics), ("weight", done.weights, sends.weights)):
            if set(names) - set(known):
                raise _refused(f"It has a {what} that the ask does not name.")
        if bool(done.update) != bool(sends.parts):
            raise _refused("It has no update." if sends.parts else "It has an update, and none is asked for.")
    if done.update:
        _check_update(update, _specs(order.parts.values()), None if sends is None else sends.parts)


def heard(order: Order, frame: Stepped) -> Stepped:
    """How work goes, without metrics that the ask does not name."""
    if (sends := order.assignment.sends) is None:
        return frame
    points = [{name: value for name, value in point.values.items() if name in sends.metrics} for point in frame.logged]
    told = [old.model_copy(update={"values": new}) for old, new in zip(frame.logged, points, strict=True)]
    return frame.model_copy(update={"logged": tuple(told)})


def check_failed(order: Order, failed: Failed) -> Failed:
    """What a failure may say outside: a code of ours with our sentence; of the plan, what was in its text before.

    The detail stays here, in the owner's log.
    """
    if failed.code not in {*pages(), *SENTENCES} or failed.code in OURS:
        return failure("work_failed", failed.detail)
    said = failure(failed.code, failed.detail)
    return _placed(said, failed, Path(order.bundle)) if failed.raised or failed.file else said


def _placed(said: Failed, failed: Failed, path: Path) -> Failed:
    """With the type of what the plan raised, and its place, if they can be: a type can be called anything."""
    try:
        files = parse_bundle(path.read_bytes()).files
    except (OSError, PlanError, TooLargeError):
        return said
    raised = failed.raised
    if raised not in vars(builtins) and not any(raised.encode() in WORDS.findall(text) for text in files.values()):
        raised = ""
    if failed.line <= files.get(failed.file, b"").count(b"\n") + 1 and failed.file in files:
        return placed(said, raised, failed.file, failed.line)
    return placed(said, raised)


def _check_update(update: Path, model: Mapping[str, TensorSpec], parts: Collection[str] | None) -> None:
    with update.open("rb") as file:
        found = {name: entry.spec for name, entry in read_header(file).entries.items()}
        head, _ = layout({name: found[name] for name in sorted(found)}, {})
        file.seek(0)
        plain = file.read(len(head)) == head
    for full_name, spec in found.items():
        part, _, name = full_name.partition("/")
        if part not in parts if parts is not None else not PART.fullmatch(part):
            raise _refused("Its update has a part that the ask does not name.")
        if model.get(name) != spec:
            raise _refused("Its update has a tensor that the model does not have, or in another shape or dtype.")
    if not plain:
        raise _refused("Its update's header has more in it than names, shapes and dtypes, or has them out of order.")


def _specs(paths: Iterable[str]) -> dict[str, TensorSpec]:
    found = dict[str, TensorSpec]()
    for path in paths:
        with Path(path).open("rb") as file:
            found |= {name: entry.spec for name, entry in read_header(file).entries.items()}
    return found


def _refused(why: str) -> ForbiddenError:
    """The agent's refusal to send something; ``why`` has nothing in it that the work process said."""
    fix = "The plan sends what a run does not ask for: its owner decides whether it stays approved."
    return ForbiddenError("output_refused", "What the work made is not sent.", why, fix)
