"""What a node's agent and its work process say to each other: frames of four bytes of length and JSON, over pipes.

The work process runs foreign code, so its frames are checked like a stranger's: size, kind, every field. Free of torch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from foedus.data.owned import Reading
from foedus.domain.checkpoint import CHECKPOINTERS, When
from foedus.domain.errors import IntegrityError
from foedus.wire.messages import Assignment, Count, Finite, Line, Message, Name, Timings
from foedus.wire.progress import POINTS, Point, Seconds

LIMIT = 4 << 20
"""The largest frame, in bytes."""

HEAD = struct.Struct("<I")

Path = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class Order(Message):
    """Do an assignment. The paths are as the work process sees them: plan, parts of the broadcast, the client's file.

    ``state`` is the current client state (none: the first contribution). ``loading``: what the dataset's loading plan
    says, where it has one. ``alignment``: by which the run has tables read. ``files``: a folder with the plan's files,
    to read and to start, where one is a command. ``kept``: the scores of what the run's checkpointers keep of this
    client, by their names.
    """

    kind: Literal["order"] = "order"
    assignment: Assignment
    bundle: Path
    parts: dict[Name, Path]
    dataset: Path
    state: Path | None
    loading: dict[str, Any] | None = None
    reading: Reading = Reading()
    kept: dict[Name, Finite | None] = Field(default_factory=dict)
    files: Path | None = None
    alignment: Path | None = None


class Ready(Message):
    """The work process has imported what it needs."""

    kind: Literal["ready"] = "ready"


class Stepped(Message):
    """The work goes on: so many steps since it began, and what was logged since the last such frame.

    ``cpu``: seconds of a processor that the process has used so far; ``memory``: bytes that it had at most.
    """

    kind: Literal["stepped"] = "stepped"
    steps: Count
    logged: Annotated[tuple[Point, ...], Field(max_length=POINTS)] = ()
    cpu: Seconds = 0.0
    memory: Count = 0


class Model(Message):
    """A model that checkpointers keep, after so many rounds; ``scores`` by the checkpointers' names."""

    when: When
    round: Count
    size: Count
    scores: Annotated[dict[Name, Finite | None], Field(min_length=1, max_length=CHECKPOINTERS)]


class Done(Message):
    """The work is done. After this frame come the bytes of the update (a test has none), of the new state, and models.

    ``models`` are for the owner of the node, and do not leave it.
    """

    kind: Literal["done"] = "done"
    weights: Annotated[dict[Name, Finite], Field(max_length=100)]
    metrics: Annotated[dict[Name, Finite], Field(max_length=1000)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    timings: Timings = Field(default_factory=dict)
    update: Count
    state: Count
    models: Annotated[tuple[Model, ...], Field(max_length=2)] = ()


class Failed(Message):
    """The work failed. ``reason`` may leave the node; ``detail`` stays in the owner's log.

    ``raised``: the type of what the plan raised, in the ``line`` of its ``file``.
    """

    kind: Literal["failed"] = "failed"
    code: Name
    reason: Annotated[Line, StringConstraints(max_length=500)]
    detail: Annotated[str, StringConstraints(max_length=10_000)] = ""
    raised: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_0-9]{0,60}$")] = ""
    file: Annotated[str, StringConstraints(max_length=100)] = ""
    line: Count = 0


Frame = Annotated[Order | Ready | Stepped | Done | Failed, Field(discriminator="kind")]
_adapter: TypeAdapter[Order | Ready | Stepped | Done | Failed] = TypeAdapter(Frame)


def pack(frame: Message) -> bytes:
    r"""A frame as bytes.

    >>> pack(Ready())
    b'\x10\x00\x00\x00{"kind":"ready"}'
    """
    content = frame.model_dump_json().encode()
    return HEAD.pack(checked(len(content))) + content


def parse(content: bytes) -> Order | Ready | Stepped | Done | Failed:
    """The frame in ``content`` (without its length).

    Raises:
        IntegrityError: ``frame_malformed``.
    """
    try:
        return _adapter.validate_json(content)
    except ValidationError as error:
        raise _malformed("It is not a message that both sides know.") from error


def length(head: bytes) -> int:
    """The length that four bytes announce.

    Raises:
        IntegrityError: ``frame_malformed`` over the limit.
    """
    return checked(HEAD.unpack(head)[0])


def checked(size: int) -> int:
    """``size``, if a frame may have it."""
    if size > LIMIT:
        raise _malformed(f"It has {size} bytes; the limit is {LIMIT}.")
    return size


def read(receive: Callable[[int], bytes]) -> Order | Ready | Stepped | Done | Failed | None:
    """The next frame of a blocking stream; None at its end. ``receive(n)`` reads ``n`` bytes, fewer at the end."""
    head = receive(HEAD.size)
    if len(head) < HEAD.size:
        return None
    content = receive(size := length(head))
    return parse(content) if len(content) == size else None


def _malformed(why: str) -> IntegrityError:
    return IntegrityError("frame_malformed", "A frame between agent and work process is malformed.", why)
