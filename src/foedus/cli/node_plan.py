"""``foedus node plan``: plans that runs want to run on this node, read and decided on by its owner. Free of torch."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option, table
from foedus.cli.scope_options import scope_options
from foedus.node import owner
from foedus.node.owner import Standing
from foedus.node.review import Review, changes, review
from foedus.node.scope import Scope, in_words
from foedus.node.vault import PlanEntry

note_option = click.option("--note", default="", help="A line that the plan's author is told.")


@click.group("plan")
def command() -> None:
    """Plans that runs want to run here; nothing runs before it is approved."""


@command.command("list")
@home_option
@json_option
def plan_list(home: Path) -> None:
    """List every plan that was offered or registered, the newest first."""
    plans = owner.list_plans(home)
    rows = [[plan.digest[:12], plan.status, plan.name, plan.author, _time(plan.seen_at), plan.note] for plan in plans]
    text = table(["digest", "state", "name", "author", "seen", "note"], rows) if rows else "No plan was offered yet."
    emit({"plans": [_data(plan) for plan in plans]}, text)


@command.command("show")
@click.argument("digest")
@click.option(
    "--diff",
    is_flag=True,
    help="Only what differs from the plan approved last (of its name, if any is).",
)
@home_option
@json_option
def plan_show(digest: str, diff: bool, home: Path) -> None:
    """Print the plan whose digest begins with DIGEST: what it imports and touches, and every file of it."""
    plan, files = owner.show_plan(home, digest)
    found, stands = review(files), owner.standing(home, plan.digest)
    before = owner.approved_before(home, plan) if diff else None
    data = {**_data(plan), "files": files, "imports": found.imports, "notices": [vars(n) for n in found.notices]}
    data |= {"needs": [vars(need) for need in found.needs], **_standing_data(stands)}
    text = [_described(plan, stands), _reviewed(found)]
    if before is not None:
        lines = changes(before[1], files)
        data |= {"compared_with": before[0].digest, "diff": lines}
        last = before[0]
        text += [f"changed since {last.name}, approved {_time(last.decided_at or 0.0)}, plan {last.digest[:12]}:"]
        text += ["\n".join(lines)]
    else:
        text += ["No other plan is approved here; this is all of it."] if diff else []
        text += [f"──── {name}\n{content.rstrip()}" for name, content in files.items()]
    emit(data, "\n\n".join(text))


@command.command("approve")
@click.argument("digest")
@note_option
@scope_options
@home_option
@json_option
def approve(digest: str, note: str, scope: Scope, home: Path) -> None:
    """Let the plan whose digest begins with DIGEST run on this node's data, as far as the options say."""
    _decided(home, owner.approve(home, digest, note, scope))


@command.command("reject")
@click.argument("digest")
@note_option
@home_option
@json_option
def reject(digest: str, note: str, home: Path) -> None:
    """Refuse the plan whose digest begins with DIGEST; if it was approved, a run of it stops within seconds."""
    _decided(home, owner.reject(home, digest, note))


@command.command("register")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@home_option
@json_option
def register(path: Path, home: Path) -> None:
    """Bring a plan's file or folder here before any run asks for it, with PATH.signature if that is there."""
    _decided(home, owner.register(home, path))


def _decided(home: Path, plan: PlanEntry) -> None:
    stands = owner.standing(home, plan.digest)
    emit({**_data(plan), **_standing_data(stands)}, _described(plan, stands))


def _data(plan: PlanEntry) -> dict[str, object]:
    return {**vars(plan), "state": plan.status}


def _standing_data(stands: Standing) -> dict[str, object]:
    given = stands.grant
    scope = None if given is None else given.scope.model_dump(mode="json")
    return {"signed": stands.signed, "given_by": None if given is None else given.by, "scope": scope}


def _reviewed(found: Review) -> str:
    unusual = f"; look at {', '.join(found.unusual)}" if found.unusual else ""
    lines = [f"imports {', '.join(found.imports) or 'nothing'}{unusual}"]
    lines += [f"needs {need.name} {need.wanted}, here {need.here or 'not installed'}" for need in found.needs]
    return "\n".join([*lines, *(f"{notice.file}, line {notice.line}: {notice.what}" for notice in found.notices)])


def _described(plan: PlanEntry, stands: Standing) -> str:
    by = f" by {plan.author}" if plan.author else ""
    lines = [f"plan {plan.digest}", f"{plan.name}{by}: {plan.status}{f' ({plan.note})' if plan.note else ''}"]
    lines += [f"signed by {who}" for who in stands.signed]
    if plan.state == "approved" and stands.grant is not None and (words := in_words(stands.grant.scope)):
        lines.append(f"approved for {', '.join(words)}")
    return "\n".join(lines)


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
