"""``foedus node``: what the owner of data does; each command is a module's, loaded when it is called."""

from __future__ import annotations

import click

from foedus.cli.lazy import LazyGroup

LAZY = {
    "init": ("foedus.cli.node_join:init", "Make a node: a home and a key, which never leaves it."),
    "join": ("foedus.cli.node_join:join", "Join a coordinator."),
    "start": ("foedus.cli.node_service:start", "Work for runs whose plans the owner approved."),
    "drain": ("foedus.cli.node_service:drain", "Finish the work in hand, take no more, end."),
    "stop": ("foedus.cli.node_service:stop", "End at once."),
    "restart": ("foedus.cli.node_service:restart", "Finish the work in hand, and begin anew."),
    "rotate-key": ("foedus.cli.node_join:rotate", "Replace the node's key, also while it works."),
    "audit": ("foedus.cli.node_audit", "The security log: what was asked, decided, changed and run."),
    "certificate": ("foedus.cli.node_certificate", "The TLS certificate that this node shows."),
    "checkpoint": ("foedus.cli.node_checkpoint", "The models that runs keep here."),
    "data": ("foedus.cli.node_data", "The datasets that this node offers."),
    "loading": ("foedus.cli.node_loading", "The loading plans by which this node's files are read."),
    "history": ("foedus.cli.node_history", "What ran here."),
    "logs": ("foedus.cli.node_logs", "What the node, and the work in it, said."),
    "plan": ("foedus.cli.node_plan", "Plans that runs want to run here, and the owner's decisions."),
    "policy": ("foedus.cli.node_policy", "What approved plans may be asked for."),
    "trust": ("foedus.cli.node_trust", "Authors whose signed plans run here unread."),
    "status": ("foedus.cli.node_status", "Where the node is, and what waits for its owner."),
    "witness": ("foedus.cli.node_witness", "What this node has seen of the coordinator's audit log."),
}


@click.group("node", cls=LazyGroup, lazy=LAZY)
def command() -> None:
    """Be a node: join, offer data, decide on plans, work.

    A node's home is --home, or FOEDUS_NODE_HOME, or in the user's data folder.
    """
