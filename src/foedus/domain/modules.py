"""Modules that are loaded when they are needed, and looking for garbage, which takes long where there are many.

A process that ends looks for garbage among all that its modules left; with PyTorch's tracer that takes a second, for
nothing.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
import time
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


class Looked:
    """When all there was, was last looked through in :func:`settled`; at first, when this module was loaded."""

    at = time.monotonic()


@contextmanager
def settled(every: float = 5.0) -> Iterator[None]:
    """Look for garbage among what comes, and not among what there is now, in here.

    Python counts from anew afterwards, and after many short times in here would never look through everything. So that
    is done first, where it was not for ``every`` seconds: it takes some tenths of one.
    """
    if time.monotonic() - Looked.at >= every:
        gc.collect()
        Looked.at = time.monotonic()
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
