"""``foedus node audit``: the node's security log, shown and verified. Free of torch."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option, table
from foedus.domain.errors import IntegrityError
from foedus.node.security import Verified
from foedus.node.vault import Vault
from foedus.wire.audit import parse_head, show_head


@click.command("audit")
@click.option("--verify", "verifies", is_flag=True, help="Follow the chain; tell the first line that does not hold.")
@click.option("--witness", metavar="SEQ:HASH", help="With --verify: a head of before, which the log has to contain.")
@click.option("--last", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many lines at most.")
@click.option("--event", metavar="NAME", help="Only lines of this kind, as approved or round_started.")
@home_option
@json_option
def command(verifies: bool, witness: str | None, last: int, event: str | None, home: Path) -> None:
    """Show the newest lines of the security log: approvals, changes of datasets, requests, rounds.

    Keep the head that --verify tells elsewhere: a log that was cut or written anew does not contain it.
    """
    with Vault(home) as vault:
        log = vault.security
        if verifies:
            _tell(log.verify(parse_head(witness) if witness else None))
            return
        found = log.newest(last, *filter(None, [event]))
    rows = [[each.seq, each.at[:19], each.event, each.subject[:40], each.detail[:100]] for each in found]
    text = table(["entry", "time (UTC)", "event", "subject", "detail"], rows) if rows else "The log has no such line."
    emit({"entries": [vars(each) for each in found]}, text)


def _tell(verified: Verified) -> None:
    if verified.broken:
        raise IntegrityError(
            "audit_broken",
            f"The security log does not hold: {verified.broken}.",
            f"{verified.entries} lines before it hold, up to {show_head(verified.head)}.",
            "Find out who wrote to the folder `audit` in the node's home; compare it with a copy of before.",
        )
    begins = f", from entry {verified.first} on; older ones were removed for their size" if verified.first > 1 else ""
    torn = (
        f"\nThe last line was not finished ({verified.torn} bytes); the next entry removes it." if verified.torn else ""
    )
    data = {"entries": verified.entries, "first": verified.first, "head": show_head(verified.head)}
    text = f"{verified.entries} lines hold{begins}; the head is {show_head(verified.head)}{torn}"
    emit({**data, "torn": verified.torn}, text)
