"""``python -m benchmarks [j1 j2 j3 blobs nodes] [--repeat N] [--json]``."""

from __future__ import annotations

import argparse
import json

from benchmarks import live, rounds
from benchmarks.jobs import JOBS

NAMES = (*JOBS, *live.LIVE)


def main() -> None:
    """Run what is named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each runner of a job (default: 3)")
    parser.add_argument("--json", action="store_true", help="print data, not tables")
    given = parser.parse_args()
    names = given.names or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    found: dict[str, object] = {}
    for name in names:
        if name in JOBS:
            found[name] = rounds.run(name, given.repeat, tell=not given.json)
        else:
            result = live.LIVE[name]()
            found[name] = result
            if not given.json:
                print(live.table(name, result), flush=True)
    if given.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
