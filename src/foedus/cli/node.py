"""``foedus node``: what the owner of data does. Free of torch; :mod:`foedus.cli.node_data` is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from foedus.cli import node_service
from foedus.cli.lazy import LazyGroup
from foedus.cli.options import home_option, secret_from_environment
from foedus.cli.output import emit, json_option, table
from foedus.domain.errors import UsageError
from foedus.node import kit, owner
from foedus.node.keys import rotate_key
from foedus.node.review import Review, changes, review
from foedus.node.vault import Identity, PlanEntry
from foedus.wire.trust import OVERLAP

LAZY = {
    "audit": ("foedus.cli.node_audit", "The security log: what was asked, decided, changed and run."),
    "certificate": ("foedus.cli.node_certificate", "The TLS certificate that this node shows."),
    "data": ("foedus.cli.node_data", "The datasets that this node offers."),
    "loading": ("foedus.cli.node_loading", "The loading plans by which this node's files are read."),
    "history": ("foedus.cli.node_history", "What ran here."),
    "logs": ("foedus.cli.node_logs", "What the node, and the work in it, said."),
    "policy": ("foedus.cli.node_policy", "What approved plans may be asked for."),
    "status": ("foedus.cli.node_status", "Where the node is, and what waits for its owner."),
    "witness": ("foedus.cli.node_witness", "What this node has seen of the coordinator's audit log."),
}
FILE = click.Path(path_type=Path, dir_okay=False)
signer_option = click.option(
    "--signer", metavar="FINGERPRINT", help="Who must have signed the kit, as its sender told you."
)


@click.group("node", cls=LazyGroup, lazy=LAZY)
def command() -> None:
    """Be a node: join, offer data, decide on plans, work.

    A node's home is --home, or FOEDUS_NODE_HOME, or in the user's data folder.
    """


@command.command("init")
@click.argument("name", required=False)
@click.option("--kit", "kit_file", type=FILE, help="A start-up kit, which names the node and has it join at once.")
@signer_option
@home_option
@json_option
def init(name: str | None, kit_file: Path | None, signer: str | None, home: Path) -> None:
    """Make a node called NAME: a home and a key, which never leaves it."""
    if (name is None) == (kit_file is None):
        raise UsageError("node_name_missing", "A node needs a name, or a kit that names it.", "", "Give NAME or --kit.")
    if kit_file is not None:
        opened = kit.open_kit(kit_file, signer)
        made = kit.init(home, opened.kit)
        emit(
            {**_identity(made, home), "signer": opened.signer},
            f"node {made.name} in {home} has joined {made.coordinator} as {made.node}\nkit signed by {opened.signer}",
        )
        return
    assert name is not None
    made = owner.init(home, name)
    emit(
        _identity(made, home),
        f"node {made.name} in {home}\nNext: foedus node join --home {home} --coordinator URL --token TOKEN",
    )


@command.command("join")
@click.option("--coordinator", metavar="URL", envvar="FOEDUS_COORDINATOR", show_envvar=True)
@click.option("--token", help="The join token; better in FOEDUS_JOIN_TOKEN or FOEDUS_JOIN_TOKEN_FILE.")
@click.option("--kit", "kit_file", type=FILE, help="A start-up kit, in place of both.")
@signer_option
@home_option
@json_option
def join(coordinator: str | None, token: str | None, kit_file: Path | None, signer: str | None, home: Path) -> None:
    """Join a coordinator with a one-use token from `foedus coordinator invite`, or with a kit."""
    if kit_file is not None:
        made = kit.join(home, kit.open_kit(kit_file, signer).kit)
    else:
        made = _join(coordinator, token, home)
    lines = [f"node {made.name} has joined {made.coordinator} as {made.node}"]
    lines.append(
        f"Next: foedus node data add FILE --name NAME --tags TAG --home {home}, then foedus node start --home {home}"
    )
    emit(_identity(made, home), "\n".join(lines))


def _join(coordinator: str | None, token: str | None, home: Path) -> Identity:
    secret = token or secret_from_environment("FOEDUS_JOIN_TOKEN")
    if secret is None:
        raise UsageError("token_missing", "There is no join token.", "", "Give --token, or set FOEDUS_JOIN_TOKEN.")
    if coordinator is None:
        raise UsageError("coordinator_missing", "There is no coordinator to join.", "", "Give --coordinator or --kit.")
    return owner.join(home, coordinator, secret)


@command.command("rotate-key")
@click.option("--overlap", type=click.FloatRange(0, 86400), default=OVERLAP, show_default=True, metavar="SECONDS")
@home_option
@json_option
def rotate(overlap: float, home: Path) -> None:
    """Replace the node's key, also while it works; for --overlap seconds the old one is accepted too."""
    made = rotate_key(home, overlap)
    emit(made.model_dump(mode="json"), f"node {made.node} has a new key; the old one holds for {made.overlap:.0f} s")


for _each in node_service.COMMANDS:
    command.add_command(_each)


@command.group("plan")
def plan_group() -> None:
    """Plans that runs want to run here; nothing runs before the owner approves it."""


@plan_group.command("list")
@home_option
@json_option
def plan_list(home: Path) -> None:
    """List every plan that was offered, the newest first."""
    plans = owner.list_plans(home)
    rows = [[plan.digest[:12], plan.state, plan.name, plan.author, _time(plan.seen_at), plan.note] for plan in plans]
    text = table(["digest", "state", "name", "author", "seen", "note"], rows) if rows else "No plan was offered yet."
    emit({"plans": [vars(plan) for plan in plans]}, text)


@plan_group.command("show")
@click.argument("digest")
@click.option("--diff", is_flag=True, help="Only what differs from the plan of this name that was approved last.")
@home_option
@json_option
def plan_show(digest: str, diff: bool, home: Path) -> None:
    """Print the plan whose digest begins with DIGEST: what it imports, places worth a look, and every file of it."""
    plan, files = owner.show_plan(home, digest)
    found, before = review(files), owner.approved_before(home, plan) if diff else None
    data = {**vars(plan), "files": files, "imports": found.imports, "notices": [vars(n) for n in found.notices]}
    text = [_described(plan), _reviewed(found)]
    if before is not None:
        lines = changes(before[1], files)
        data |= {"compared_with": before[0].digest, "diff": lines}
        text += [f"changed since {before[0].digest[:12]}:", "\n".join(lines)]
    else:
        text += ["No other plan of this name was approved; this is all of it."] if diff else []
        text += [f"──── {name}\n{content.rstrip()}" for name, content in files.items()]
    emit(data, "\n\n".join(text))


def _decision(verb: str, decide: Callable[[Path, str, str], PlanEntry], help_text: str) -> None:
    """``approve`` and ``reject`` differ in what they decide."""

    @plan_group.command(verb, help=help_text)
    @click.argument("digest")
    @click.option("--note", default="", help="A line that the plan's author is told.")
    @home_option
    @json_option
    def decision(digest: str, note: str, home: Path) -> None:
        plan = decide(home, digest, note)
        emit(vars(plan), _described(plan))


_decision("approve", owner.approve, "Let the plan whose digest begins with DIGEST run on this node's data.")
_decision("reject", owner.reject, "Refuse the plan whose digest begins with DIGEST.")


def _reviewed(found: Review) -> str:
    unusual = f"; look at {', '.join(found.unusual)}" if found.unusual else ""
    lines = [f"imports {', '.join(found.imports) or 'nothing'}{unusual}"]
    return "\n".join([*lines, *(f"{notice.file}, line {notice.line}: {notice.what}" for notice in found.notices)])


def _described(plan: PlanEntry) -> str:
    return f"plan {plan.digest}\n{plan.name} by {plan.author}: {plan.state}{f' ({plan.note})' if plan.note else ''}"


def _identity(made: Identity, home: Path) -> dict[str, Any]:
    return {**vars(made), "home": str(home)}


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
