"""Stretches of work that an operator watches: a request, a transaction, a round. One seam for logs, metrics and traces.

Whoever does the work says ``with span("store", transaction="lease"):``. Log lines written inside carry the fields that
say what they are about (:data:`ABOUT`); watchers, installed once at a process's start, time it or trace it. Without
watchers a span costs about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar

Field = str | int
Fields = dict[str, Field]

ABOUT = ("request", "run", "round", "phase", "node", "client", "assignment")
"""Fields that log lines carry, in this order; others are of the span alone."""

Watcher = Callable[[str, Fields], AbstractContextManager[None]]
"""Given a span's name and its fields, which may grow until it ends: what is entered when it begins and left after."""

_about: ContextVar[Fields] = ContextVar("foedus_about")
_watchers: list[Watcher] = []


@contextmanager
def span(name: str, **fields: Field) -> Iterator[Fields]:
    """A stretch of work; what becomes known while it lasts may be added to the fields that it yields.

    >>> with span("round", run="r1", round=3):
    ...     about()
    {'run': 'r1', 'round': 3}
    """
    with concerning(**{key: fields[key] for key in ABOUT if key in fields}), ExitStack() as stack:
        for watcher in _watchers:
            stack.enter_context(watcher(name, fields))
        yield fields


@contextmanager
def concerning(**fields: Field) -> Iterator[None]:
    """Say what work is about, without watching it: for what lasts as long as a run does."""
    token = _about.set({**about(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def about() -> Fields:
    """What the work that goes on here is about: the fields of the spans around it."""
    return _about.get({})


@contextmanager
def watched_by(*watchers: Watcher) -> Iterator[None]:
    """Have spans of this process watched, as long as this lasts."""
    _watchers.extend(watchers)
    try:
        yield
    finally:
        for watcher in watchers:
            _watchers.remove(watcher)
