"""The timed schedule: close every so many seconds over whoever reported; who works goes on.

As the trigger ``time_up`` of Xie et al., FederatedScope (VLDB 2023, https://arxiv.org/abs/2204.05011), section 3.3.
Updates count by their staleness, as under :mod:`foedus.schedules.buffered`. Where nobody has reported the phase stays
open for as long again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from foedus.domain.timing import TimedTable
from foedus.schedules.buffered import Flow, begin, close, draw, give_up, heard, woken
from foedus.schedules.schedule import Asked, Command, Event, Schedule, Tick, WakeAt
from foedus.schedules.selectors import DRAWERS


@dataclass(frozen=True)
class Window:
    """The flow, and when the phase is due to be closed."""

    flow: Flow
    until: float


def timed(options: TimedTable, concurrency: int) -> Schedule:
    """Close ``options.every`` seconds after the phase was opened; ``concurrency`` clients work at any time."""

    def init(out: tuple[str, ...]) -> tuple[Window, tuple[Command, ...]]:
        flow, commands = begin(out)
        return Window(flow, options.every), commands

    def advance(state: Window, event: Event) -> tuple[Window, tuple[Command, ...]]:
        flow = heard(state.flow, event, options.staleness)
        if isinstance(event, Asked):
            idle = not flow.out and not flow.counted
            return replace(state, flow=flow), (give_up(flow),) if idle else ()
        if not isinstance(event, Tick):
            flow, commands = woken(flow, min(event.at, state.until))
            return replace(state, flow=flow), commands
        if event.at >= state.until and flow.counted:
            return replace(state, flow=flow), (close(flow),)
        until = state.until + (options.every if event.at >= state.until else 0.0)
        flow, commands = draw(replace(flow, alarm=until), concurrency)
        return Window(flow, until), (*commands, WakeAt(until))

    return Schedule(init, advance, DRAWERS[options.selector], carries=True, patience=options.deadline)
