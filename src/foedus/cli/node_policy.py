"""``foedus node policy``: what approved plans may be asked for on this node. Free of torch."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option
from foedus.node.policy import FILE, read_policy
from foedus.node.policy_words import explained


@click.group("policy")
def command() -> None:
    """The rules in policy.toml in the node's home, which every assignment is held to."""


@command.command("check")
@home_option
@json_option
def check(home: Path) -> None:
    """Say whether the policy is in order, and what each rule means."""
    policy, there = read_policy(home), (home / FILE).is_file()
    rules = explained(policy)
    width = max(len(rule) for rule, _ in rules)
    where = f"{FILE} is in order" if there else f"there is no {FILE}; this holds"
    text = "\n".join([f"{where}:", *(f"  {rule:<{width}}  {words}" for rule, words in rules)])
    emit({"file": there, "policy": policy.model_dump(mode="json", by_alias=True), "rules": dict(rules)}, text)
