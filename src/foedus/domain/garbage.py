"""When Python looks for garbage, which takes long where there are many objects.

A process that ends looks for it among all that its modules left: a second of work for nothing, with PyTorch's tracer.
"""

from __future__ import annotations

import atexit
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

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
