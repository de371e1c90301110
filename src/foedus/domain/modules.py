"""Modules that are loaded when they are needed, and looking for garbage, which takes long where there are many.

A process that ends looks for garbage among all that its modules left; with PyTorch's tracer that takes a second, for
nothing.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

atexit.register(gc.freeze)


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage in here."""
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looking:
            gc.enable()


@contextmanager
def settled() -> Iterator[None]:
    """Look for garbage among what comes, and not among what there is now, in here."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
