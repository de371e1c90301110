"""``python -m benchmarks.peers [NAME …]``: make the peers' environments."""

from __future__ import annotations

import sys

from benchmarks.peers.environments import ENVIRONMENTS, install


def main() -> None:
    """Install what is named, or everything; fails where one could not be installed."""
    unknown = [name for name in sys.argv[1:] if name not in ENVIRONMENTS]
    if unknown:
        sys.exit(f"there is no peer {', '.join(unknown)}; there are {', '.join(ENVIRONMENTS)}")
    sys.exit(install(sys.argv[1:]) > 0)


if __name__ == "__main__":
    main()
