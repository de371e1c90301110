"""``foedus explain``: what an error code means, why it happens, and what to do."""

from __future__ import annotations

from dataclasses import asdict

import click

from foedus.cli.output import emit, json_option, table
from foedus.domain import errors
from foedus.domain.explained import Page, page, pages


@click.command("explain")
@click.argument("code", required=False)
@json_option
def command(code: str | None) -> None:
    """Explain CODE, the word in brackets after an error; without it, list every code."""
    if code is None:
        known = pages().values()
        emit(
            {"codes": [asdict(one) for one in known]},
            table(["code", "means"], [[one.code, one.means] for one in known]),
        )
        return
    found = page(code)
    emit(asdict(found), _text(found))


def _text(found: Page) -> str:
    lines = [found.code, "", f"  {found.means}", "", f"  Why:  {found.why}", f"  Fix:  {found.fix}", ""]
    return "\n".join([*lines, *(f"  {name}: {_told(name)}" for name in found.kinds)]).rstrip()


def _told(name: str) -> str:
    kind = vars(errors)[name]
    return f"exit code {kind.exit_code}, HTTP status {kind.http_status}"
