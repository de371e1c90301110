"""Modules that are loaded when they are needed."""

from __future__ import annotations

import gc
import importlib
import sys
from types import ModuleType

from foedus.domain.garbage import uncollected


def load(name: str) -> ModuleType:
    """Import a module, and meanwhile look for no garbage: what is imported stays, and looking takes a tenth of it.

    For where a process begins. What there is by then is never looked at again, so a module that is known already is
    only given back: later on, some of what there is would be garbage.

    >>> load("foedus.domain.errors").__name__
    'foedus.domain.errors'
    """
    if name in sys.modules:
        return sys.modules[name]
    with uncollected():
        try:
            return importlib.import_module(name)
        finally:
            gc.freeze()
