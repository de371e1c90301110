"""``foedus node status``: where a node is, and what waits for its owner. Free of torch."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option
from foedus.node import wishes
from foedus.node.policy import read_policy
from foedus.node.vault import Vault


@click.command("status")
@home_option
@json_option
def command(home: Path) -> None:
    """Say whether the node has joined and runs, what it works on, and which plans wait for a decision."""
    with Vault(home) as vault:
        known, datasets, head = vault.identity(), vault.datasets(), vault.security.head()
        pending = [plan for plan in vault.plans() if plan.state == "pending"]
    said, runs = wishes.status(home), wishes.runs(home)
    state = said.state if runs and said else "running" if runs else "stopped"
    data: dict[str, Any] = {
        "name": known.name,
        "home": str(home),
        "node": known.node,
        "coordinator": known.coordinator,
        "state": state,
        "pid": said.pid if runs and said else None,
        "version": said.version if said else None,
        "since": said.since if runs and said else None,
        "contact": said.contact if said else None,
        "sandbox": read_policy(home).sandbox,
        "datasets": [{"name": each.client, "examples": each.examples} for each in datasets],
        "pending": [{"digest": plan.digest, "name": plan.name, "author": plan.author} for plan in pending],
        "working": [each.model_dump(mode="json") for each in said.working] if runs and said else [],
        "audit_entries": head.seq,
    }
    emit(data, _described(data))


def _described(data: dict[str, Any]) -> str:
    joined = f"joined {data['coordinator']} as {data['node']}" if data["node"] else "has joined no coordinator"
    since = f" since {_moment(data['since'])}, process {data['pid']}" if data["since"] else ""
    off = "" if data["sandbox"] == "bubblewrap" else ": PLANS RUN WITHOUT ONE, as the policy says"
    offered = ", ".join(f"{each['name']} ({each['examples']})" for each in data["datasets"])
    lines = [
        f"node      {data['name']}, {joined}",
        f"state     {data['state']}{since}",
        f"contact   {_ago(data['contact'])}",
        f"sandbox   {data['sandbox']}{off}",
        f"datasets  {offered or 'none'}",
        f"log       {data['audit_entries']} lines in the security log",
    ]
    for each in data["working"]:
        began = f", for {time.time() - each['since']:.0f} s" if each["since"] else ", waits its turn"
        lines.append(f"working   {each['run']} round {each['round']} {each['phase']} of {each['client']}{began}")
    for each in data["pending"]:
        lines.append(f"decide    plan {each['digest'][:12]} {each['name']} by {each['author']}")
    if data["pending"]:
        lines.append("Next: foedus node plan show DIGEST, then foedus node plan approve or reject DIGEST")
    return "\n".join(lines)


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _ago(at: float | None) -> str:
    return "never" if at is None else f"{max(0.0, time.time() - at):.0f} s ago"
