"""``python -m benchmarks [NAME …]``: measure what is named, or everything; ``--write`` keeps it in RESULTS.md."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Mapping

from benchmarks import averaging, growth, live, nodes, overhead, results, rounds, techniques
from benchmarks.definitions import JOBS
from benchmarks.results import Section
from benchmarks.runners import absent

Measure = Callable[[rounds.Options], Mapping[str, object]]

BENCHMARKS: Mapping[str, Measure] = {
    **{name: functools.partial(rounds.run, name) for name in JOBS},
    "techniques": techniques.run,
    "averaging": averaging.run,
    "growth": growth.run,
    "blobs": live.run,
    "streams": live.streams,
    "live": overhead.run,
    "nodes": nodes.run,
}


def main() -> None:
    """Run what is named, or everything."""
    given = _arguments()
    if missing := absent():
        print(
            f"Not installed, so not measured: {', '.join(missing)}. `make bench-peers` installs them.", file=sys.stderr
        )
    options = rounds.Options(given.repeat, given.rounds, tuple(given.only))
    found: dict[str, Section] = {}
    for name in given.names:
        found[name] = results.section(BENCHMARKS[name](options))
        if not given.json:
            print(results.text(name, found[name]), flush=True)
        if given.write:
            results.write(found)
    if given.json:
        print(json.dumps(found, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {names} (default: all)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each runner (default: 3)")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of a job, in place of its own")
    parser.add_argument("--only", action="append", default=[], help="runners of a job whose name holds this")
    parser.add_argument("--write", action="store_true", help=f"write {results.PAGE}")
    parser.add_argument("--json", action="store_true", help="print data, not tables")
    given = parser.parse_args()
    given.names = given.names or list(BENCHMARKS)
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {names}")
    if given.write and (given.rounds or given.only):
        parser.error("--write keeps whole measurements: leave --rounds and --only out")
    return given


if __name__ == "__main__":
    main()
