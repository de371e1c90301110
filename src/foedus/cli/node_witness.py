"""``foedus node witness``: what a node has seen of its coordinator's audit log."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option
from foedus.domain.errors import IntegrityError
from foedus.node.vault import Vault
from foedus.node.witness import forget, witnessed
from foedus.wire.audit import show_head


@click.command("witness")
@click.option("--forget", "begin_anew", is_flag=True, help="Begin anew with the next head: you know why it is another.")
@home_option
@json_option
def command(begin_anew: bool, home: Path) -> None:
    """Show the newest head of the coordinator's audit log that this node has verified, as SEQ:HASH.

    An auditor verifies the log against it: `foedus coordinator audit verify --witness SEQ:HASH`.
    """
    with Vault(home) as vault:
        if begin_anew:
            forget(vault)
        seen = witnessed(vault)
    if seen is None:
        emit({"head": None}, "No head has been seen yet.")
        return
    if seen.broken:
        raise IntegrityError(
            "audit_broken",
            f"The coordinator's audit log does not hold: {seen.broken}.",
            f"This node has witnessed {show_head(seen.head)}.",
            "Ask who runs it. If you know why, as after a restored backup: `foedus node witness --forget`.",
        )
    emit({"head": show_head(seen.head)}, show_head(seen.head))
