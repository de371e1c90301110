"""Takes the statistics of a dataset that its owner edited, in a process of its own that may need torch.

``python -m foedus.node.restating HOME CHANGED`` (:mod:`foedus.node.noticing`). It is the owner's, as ``foedus node data
add`` is: no plan has a word in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from foedus.domain.errors import FoedusError
from foedus.node.datasets import restate
from foedus.node.noticing import REFUSED, Changed


def main() -> None:
    """Read the dataset and record what it is now; where it is none any more, say why on the last line."""
    try:
        restate(Path(sys.argv[1]), Changed.from_json(sys.argv[2]))
    except FoedusError as error:
        print(json.dumps([error.code, error.what, error.why, error.fix]))
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
