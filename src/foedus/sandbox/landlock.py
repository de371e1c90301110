"""Landlock: the kernel's rules on files and networks that a process sets on itself, where the kernel has them.

It is a wall behind the namespaces: should a mount be seen that was not meant to be, it still cannot be opened.
Source: the kernel's userspace-api/landlock.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

CREATE, ADD, RESTRICT = 444, 445, 446
VERSION = 1
BENEATH = 1
NO_NEW_PRIVS = 38

READ = 1 << 0 | 1 << 2 | 1 << 3
"""Execute, read a file, read a folder."""

FILE_ONLY = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
"""What can be allowed on a file that is no folder: execute, write, read, truncate, control."""

RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Rights on files that a version of the interface knows; later ones know those of version 5."""

NETWORK = 3
"""To bind and to connect TCP, known from version 4 on."""

SCOPES = 3
"""To reach abstract sockets and signals of others, known from version 6 on."""

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The version of the kernel's interface; 0 where it has none."""
    return max(0, int(_libc.syscall(CREATE, None, ctypes.c_size_t(0), VERSION)))


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Let this thread, and what it starts from now on, open only what lies below; whether the kernel can.

    Raises:
        OSError: where the kernel can and does not.
    """
    known = version()
    if not known:
        return False
    files = RIGHTS[min(known, 5)]
    attributes = struct.pack("<QQQ", files, NETWORK if known >= 4 else 0, SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    rules = _checked(_libc.syscall(CREATE, attributes, ctypes.c_size_t(size), 0))
    try:
        for path in readable:
            _allow(rules, path, READ & files)
        for path in writable:
            _allow(rules, path, files)
        _checked(_libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(RESTRICT, rules, 0))
    finally:
        os.close(rules)
    return True


def _allow(rules: int, path: Path, rights: int) -> None:
    if not path.exists():
        return
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if path.is_dir() else rights & FILE_ONLY
        _checked(_libc.syscall(ADD, rules, BENEATH, struct.pack("<Qi", allowed, place), 0))
    finally:
        os.close(place)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
