"""The door of the sandbox: ``python -m foedus.sandbox.enter MODULE …`` walls itself in, then runs a module.

It is the first thing that runs inside, while the process has one thread and has imported nothing foreign.
"""

from __future__ import annotations

import runpy
import sys

from foedus.sandbox.confine import confine


def main() -> None:
    """Put up the walls that only this process can put up, and become the module."""
    confine()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
