"""Takes the statistics of a dataset that its owner edited, in a process of its own (:mod:`foedus.node.apart`)."""

from __future__ import annotations

import sys
from pathlib import Path

from foedus.node.apart import refusals
from foedus.node.datasets import restate
from foedus.node.noticing import Changed


def main() -> None:
    """Read the dataset and record what it is now."""
    with refusals():
        restate(Path(sys.argv[1]), Changed.from_json(sys.argv[2]))


if __name__ == "__main__":
    main()
