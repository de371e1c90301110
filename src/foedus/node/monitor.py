"""How a node's work goes, told to the coordinator while it goes on: at most one small message in a second.

What the work process logs is gathered here for as long as no message leaves. What does not fit or is not taken is
lost: it is there to be looked at, and no round waits for it. The owner's policy decides what may leave, by the names of
metrics, and whether lines that the plan printed may. Free of torch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field

from pydantic import ValidationError

from foedus.domain.errors import FoedusError
from foedus.node.frames import Stepped
from foedus.node.pipes import Hearing
from foedus.node.policy import Leave, matches
from foedus.node.transport import Link
from foedus.wire.progress import EVERY, LINES, POINTS, REPORTS, Noted, Point, Report, Reports

LINE_LIMIT = 500
"""Letters of a line; what is longer is cut."""

_log = logging.getLogger(__name__)


@dataclass
class _Open:
    """What was logged for an assignment and not sent yet.

    ``bytes_left``: how much of what is printed may still leave in this round; ``begun``: a line that has no end yet.
    """

    leave: Leave
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=POINTS))
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    cpu: float = 0.0
    memory: int = 0
    bytes_left: int = 0
    begun: str = ""

    def print(self, chunk: bytes) -> bool:
        """Take whole lines, as far as they may leave; whether there were any."""
        text = self.begun + chunk[: self.bytes_left].decode("utf-8", "replace")
        self.bytes_left -= len(chunk)
        *whole, rest = text.split("\n")
        self.begun = rest[:LINE_LIMIT]
        self.lines.extend("".join(c if c.isprintable() else "?" for c in line[:LINE_LIMIT]) for line in whole)
        return bool(whole)


class Monitor:
    """Gathers what is logged, and sends it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._open: dict[str, _Open] = {}
        self._wake = asyncio.Event()

    def begin(self, assignment: str, leave: Leave) -> Hearing:
        """What hears how the work for an assignment goes."""
        found = _Open(leave, bytes_left=leave.log_bytes if leave.logs else 0)

        def hear(frame: Stepped) -> None:
            points = [_allowed(leave, point) for point in frame.logged]
            found.points.extend(point for point in points if point.values)
            found.cpu, found.memory = frame.cpu, max(found.memory, frame.memory)
            if found.points:
                self._later(assignment, found)

        def hear_print(chunk: bytes) -> None:
            if found.bytes_left > 0 and found.print(chunk):
                self._later(assignment, found)

        return Hearing(hear, hear_print)

    async def send(self) -> None:
        """Send what was gathered, for ever; short rounds share a message."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(EVERY)
            self._wake.clear()
            taken = {each: self._open.pop(each) for each in list(self._open)[:REPORTS]}
            try:
                reports = tuple(_report(each, found) for each, found in taken.items())
                await self._link.post("/node/progress", Reports(reports=reports), Noted)
            except (FoedusError, ValidationError) as error:  # whatever a plan says, it ends no agent
                _log.debug("how the work goes could not be told: %s", error)
            if self._open:
                self._wake.set()

    def _later(self, assignment: str, found: _Open) -> None:
        self._open[assignment] = found
        while len(self._open) > REPORTS:
            self._open.pop(next(iter(self._open)))
        self._wake.set()


def _allowed(leave: Leave, point: Point) -> Point:
    """The point with what may leave."""
    return point.model_copy(update={"values": {k: v for k, v in point.values.items() if matches(k, leave.metrics)}})


def _report(assignment: str, found: _Open) -> Report:
    """What was gathered, which then is gone from there."""
    report = Report(
        assignment=assignment,
        points=tuple(found.points),
        cpu=found.cpu,
        memory=found.memory,
        lines=tuple(found.lines),
    )
    found.points.clear()
    found.lines.clear()
    return report
