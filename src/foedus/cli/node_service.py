"""``foedus node start``, ``drain``, ``stop`` and ``restart``: the node as a process that stays. Free of torch."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

import click

from foedus.cli.logs import log_options
from foedus.cli.observed import observed
from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option
from foedus.node import wishes
from foedus.node.service import run_agent

LOG = Path("logs") / "node.log"
LOG_BYTES, LOG_FILES = 4 << 20, 5
"""Bytes of the node's log after which another file begins, and how many older ones are kept."""


@click.command("start")
@home_option
@log_options
@json_option
def start(home: Path) -> None:
    """Work for runs whose plans the owner approved, until Ctrl-C. It only dials out.

    SIGTERM lets the work in hand go on for FOEDUS_NODE_DRAIN_SECONDS (5), a second one does not.
    """
    with observed("foedus-node"):
        _log_to(home)
        again = run_agent(home)
    if again:
        logging.shutdown()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _log_to(home: Path) -> None:
    """Keep in the home what goes to stderr, in files that go round."""
    if not home.is_dir():
        return  # what follows says that there is no node
    path = home / LOG
    path.parent.mkdir(exist_ok=True, mode=0o700)
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    root = logging.getLogger()
    handler.setFormatter(root.handlers[0].formatter)
    root.addHandler(handler)
    path.chmod(0o600)


def _ending(what: wishes.Wish, seconds: float, done: str, help_text: str) -> click.Command:
    """``drain``, ``stop`` and ``restart`` differ in what they wish for."""

    @click.command(what, help=help_text)
    @click.option(
        "--wait",
        "patience",
        type=click.FloatRange(0),
        default=seconds,
        show_default=True,
        metavar="SECONDS",
        help="How long this command waits until it is so; 0: not at all.",
    )
    @home_option
    @json_option
    def ending(patience: float, home: Path) -> None:
        before = wishes.status(home)
        wishes.wish(home, what)
        if patience:
            wishes.wait(home, what, before, patience)
        emit({"wish": what, "done": bool(patience)}, done if patience else "The node has been told.")

    return ending


drain = _ending(
    "drain", 3600.0, "The node has finished its work and ended.", "Finish the work in hand, take no more, end."
)
stop = _ending(
    "stop", 60.0, "The node has ended.", "End at once; what is in hand is asked again when the node is back."
)
restart = _ending(
    "restart",
    3600.0,
    "The node runs anew.",
    "Finish the work in hand, and begin anew with the release that is installed now.",
)
