"""Where bubblewrap is missing, nodes of tests work without a sandbox, as their owners may say; what tries it skips."""

from __future__ import annotations

from pathlib import Path

from foedus.node.policy import FILE
from foedus.sandbox.bubblewrap import unavailable

INSTALL = f"{unavailable()} apt-get install bubblewrap"
"""Why a test of the sandbox is skipped."""


def opt_out(home: Path) -> None:
    """Have the node in ``home`` work without a sandbox, where there can be none."""
    if unavailable():
        policy = home / FILE
        policy.write_text('sandbox = "off"\n' + (policy.read_text() if policy.is_file() else ""))
