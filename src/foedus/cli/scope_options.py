"""The options by which an owner bounds an approval, gathered into one value. Free of torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from foedus.domain.errors import UsageError
from foedus.node.scope import Scope

TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M"]

OPTIONS = (
    click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="For these datasets only; * matches."),
    click.option("--strategy", "strategies", multiple=True, metavar="NAME", help="For these strategies; * matches."),
    click.option("--rounds", type=click.IntRange(min=1), help="For the first so many rounds of a run."),
    click.option("--until", type=click.DateTime(TIMES), metavar="DATE", help="As 2027-01-31 or 2027-01-31T18:00, UTC."),
    click.option("--memory", type=click.IntRange(min=64 << 20), help="With so many bytes of memory."),
    click.option("--temporary", type=click.IntRange(min=1 << 20), help="With so many bytes in its private folder."),
    click.option("--processes", type=click.IntRange(min=1), help="With so many processes and threads."),
    click.option("--cpu-seconds", type=click.IntRange(min=1), help="With so many seconds of a processor."),
)


def scope_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a scope, which come to it as ``scope``."""

    @functools.wraps(function)
    def gathered(**given: Any) -> None:
        names = (*Scope.model_fields,)
        values = {name: given.pop(name) for name in names}
        function(**given, scope=scope_of(values))

    for option in reversed(OPTIONS):
        gathered = option(gathered)
    return gathered


def scope_of(values: dict[str, Any]) -> Scope:
    """The scope that the options say.

    Raises:
        UsageError: ``approval_over`` where its end is in the past.
    """
    until: datetime | None = values.pop("until")
    end = None if until is None else until.replace(tzinfo=UTC)
    if end is not None and end <= datetime.now(UTC):
        raise UsageError("approval_over", f"The approval would end in the past, at {end:%Y-%m-%d %H:%M} UTC.")
    return Scope(**values, until=None if end is None else end.timestamp())
