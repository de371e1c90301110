"""A filter of system calls (seccomp, in the kernel's classic BPF): the second wall, behind the namespaces.

What training needs passes. What reaches into other processes, the kernel's keys, other namespaces, a network or the
kernel itself, or takes memory that counts as no process's (files in memory, System V's segments, queues and
semaphores), is refused with EPERM, whatever its arguments are; ``clone3``, whose flags a filter cannot see, with
ENOSYS, upon which the C library uses ``clone``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping

from foedus.domain.errors import StorageError

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST, SECOND = 0, 4, 16, 24
"""Offsets in the kernel's ``struct seccomp_data``: the call, the architecture, the low halves of two arguments."""

NEW_NAMESPACES = 0x7E020080
"""The flags of ``clone`` that make a namespace: mount, cgroup, UTS, IPC, user, PID, network, time."""

TERMINAL = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: what types into a terminal."""

NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2

X32 = 0x40000000
"""Calls of x86-64's second interface, which has numbers of its own, begin here."""

REFUSED: Mapping[str, tuple[int, int]] = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listen": (50, 201),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
"""Calls that are refused, with their numbers on x86-64 and on 64-bit ARM."""

MACHINES: Mapping[str, tuple[int, int]] = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine → the column of its numbers in a table, and the kernel's number for it."""

CLONE, CLONE3, IOCTL = (56, 220), (435, 435), (16, 29)


def install() -> None:
    """Filter the calls of this thread, and of all that it starts from now on.

    Raises:
        StorageError: ``sandbox_unavailable``.
    """
    steps = program()
    content = ctypes.create_string_buffer(steps)
    given = struct.pack("@HP", len(steps) // 8, ctypes.addressof(content))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, FILTER, given, 0, 0):
        why = os.strerror(ctypes.get_errno())
        raise StorageError("sandbox_unavailable", "The kernel takes no filter of system calls.", why)


def program(machine: str = platform.machine()) -> bytes:
    """The filter for this kind of machine, as the kernel takes it.

    Raises:
        StorageError: ``sandbox_unavailable`` on a machine whose calls are not known here.
    """
    if machine not in MACHINES:
        raise StorageError(
            "sandbox_unavailable",
            f"There is no filter of system calls for {machine}.",
            f"There are some for {' and '.join(MACHINES)}.",
            "Run the node on such a machine.",
        )
    column, architecture = MACHINES[machine]
    steps = [
        _step(LOAD, ARCHITECTURE),
        _step(EQUAL, architecture, 1, 0),
        _step(RETURN, KILL),
        _step(LOAD, NUMBER),
        *_refuse_if(AT_LEAST, X32, errno.EPERM),
        *_refuse_if(EQUAL, CLONE3[column], errno.ENOSYS),
    ]
    for numbers in REFUSED.values():
        steps += _refuse_if(EQUAL, numbers[column], errno.EPERM)
    steps += [
        _step(EQUAL, CLONE[column], 0, 4),
        _step(LOAD, FIRST),
        *_refuse_if(ANY_BIT, NEW_NAMESPACES, errno.EPERM),
        _step(RETURN, ALLOW),
        _step(EQUAL, IOCTL[column], 0, 5),
        _step(LOAD, SECOND),
        *(step for request in TERMINAL for step in _refuse_if(EQUAL, request, errno.EPERM)),
        _step(RETURN, ALLOW),
    ]
    return b"".join(steps)


def _refuse_if(test: int, value: int, code: int) -> list[bytes]:
    return [_step(test, value, 0, 1), _step(RETURN, ERRNO | code)]


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One ``struct sock_filter``; the jumps are counted in steps."""
    return struct.pack("<HBBI", code, then, otherwise, value)
