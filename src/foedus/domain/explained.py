"""The page of every error code: what it means, why it happens, what to do. Read from ``domain/codes/*.toml``.

An error itself speaks of the one case; its page of all of them. ``foedus explain CODE`` prints it.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from foedus.domain.errors import NotFoundError
from foedus.domain.table import nearest

KEYS = ("kind", "means", "why", "fix")


@dataclass(frozen=True)
class Page:
    """A code's page; ``kinds`` are the errors that carry it: none where it is only told of a client's work."""

    code: str
    kinds: tuple[str, ...]
    means: str
    why: str
    fix: str


@functools.cache
def pages() -> Mapping[str, Page]:
    """Code → page, for every code that there is.

    >>> pages()["round_closed"].kinds
    ('RoundClosedError',)
    """
    found = {}
    for file in files("foedus.domain").joinpath("codes").iterdir():
        if file.name.endswith(".toml"):
            for code, row in tomllib.loads(file.read_text("utf-8")).items():
                kinds = (row["kind"],) if isinstance(row["kind"], str) else tuple(row["kind"])
                found[code] = Page(code, kinds, row["means"], row["why"], row["fix"])
    return dict(sorted(found.items()))


def page(code: str) -> Page:
    """The page of a code.

    Raises:
        NotFoundError: ``code_unknown``, with the nearest one.
    """
    known = pages()
    if code not in known:
        raise NotFoundError(
            "code_unknown",
            f"There is no error code `{code}`.{nearest(code, known)}",
            "An error shows its code in brackets, an answer of the API in `code`.",
            "`foedus explain` lists every code.",
        )
    return known[code]
