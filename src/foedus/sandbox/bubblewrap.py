"""A process under bubblewrap: no network, process numbers of its own, and files only as far as it is shown them.

It sees the system's programs and libraries and Python's, all read-only, what it is given to read, and an empty private
folder in memory. Its environment is made here. It is never root: a node of root's has it take a user that nobody else
is. Killed, it takes with it all that it has started.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from foedus.domain.errors import StorageError
from foedus.sandbox.limits import Limits

PRIVATE = Path("/private")
"""The private folder, inside; /tmp leads there too, unless something that is shown lies below it."""

TEMPORARY = Path("/tmp")
INSIDE = Path("/foedus")
"""Where the sandbox shows what it was given."""

USERS = range(61184, 65520)
"""Users that nobody else is: the range that systemd gives to services without a user of their own."""

SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr", "/etc/ld.so.cache", "/etc/alternatives")


PATIENCE = 30.0
"""Seconds in which a process that does nothing has ended."""


@dataclass(frozen=True)
class Sandbox:
    """What is shown to a held process, by its path inside below :data:`INSIDE`; and how much it may take."""

    shown: Mapping[str, Path] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    environment: Mapping[str, str] = field(default_factory=dict)


def command(sandbox: Sandbox, program: Sequence[str]) -> list[str]:
    """What to start, with an empty environment, to have ``program`` run in the sandbox.

    Raises:
        StorageError: ``sandbox_unavailable``.
    """
    reason = unavailable()
    if reason:
        raise StorageError(
            "sandbox_unavailable",
            "This machine cannot hold a plan in a sandbox.",
            reason,
            "Install bubblewrap: apt-get install bubblewrap.",
        )
    return [*_walls(sandbox), "--", *_entered(sandbox.limits), *program]


@cache
def unavailable() -> str:
    """Why there can be no sandbox here; empty where there can."""
    tools = ("bwrap", "setpriv", "mount")
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        return f"The command {missing[0]} is missing."
    needed = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONHOME") if name in os.environ}
    python = [sys.executable, "-S", "-c", "pass"]
    command = [*_walls(Sandbox(environment=needed)), "--", *_entered(Limits()), *python]
    try:
        tried = subprocess.run(command, env={}, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"A process in a sandbox has not ended within {PATIENCE:g} s."
    return "" if tried.returncode == 0 else f"bwrap failed: {tried.stderr.strip()[:500]}"


def readable() -> list[Path]:
    """What every held process may read: the system's programs and libraries, and this Python's."""
    package = Path(__file__).parents[2]
    python = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1], package}
    return [path for path in (*map(Path, SYSTEM), *sorted(python)) if path.exists()]


def _walls(sandbox: Sandbox) -> list[str]:
    command = [str(shutil.which("bwrap")), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"]
    for name, value in sandbox.environment.items():
        command += ["--setenv", name, value]
    command += ["--cap-drop", "ALL", *_privileges()]
    places = {path: path for path in readable()} | {INSIDE / name: path for name, path in sandbox.shown.items()}
    folders = dict.fromkeys(parent for place in places for parent in reversed(place.parents[:-1]))
    for folder in folders:
        command += ["--perms", "0755", "--dir", str(folder)]  # those that bwrap makes by itself are root's alone
    for place, path in places.items():
        if path.is_symlink() and str(path) in SYSTEM:  # where it leads is shown as well; what others lead to is not
            command += ["--symlink", str(path.readlink()), str(place)]
        else:
            command += ["--ro-bind", str(path), str(place)]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--dir", str(PRIVATE)]
    if TEMPORARY not in folders:
        command += ["--symlink", str(PRIVATE), str(TEMPORARY)]
    return [*command, "--remount-ro", "/"]


def _privileges() -> list[str]:
    """What is needed to enter; :func:`_entered` gives it away. Who is not root has it in a user namespace only."""
    if os.geteuid() == 0:
        return [word for name in ("SETUID", "SETGID", "SETPCAP", "SYS_ADMIN") for word in ("--cap-add", f"CAP_{name}")]
    own = ["--unshare-user", "--uid", "0", "--gid", "0"]  # its number inside; mount asks for it
    return [*own, "--cap-add", "CAP_SETPCAP", "--cap-add", "CAP_SYS_ADMIN"]


def _entered(limits: Limits) -> list[str]:
    """Mount the private folder, which bubblewrap cannot bound in its number of files, and give away every privilege."""
    options = f"size={limits.temporary},nr_inodes={limits.entries},mode=1777,nosuid,nodev"
    script = 'mount -t tmpfs -o "$1" private "$2" && cd "$2" && shift 2 && exec "$@"'
    away = ["--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]
    if os.geteuid() == 0:
        user = str(secrets.choice(USERS))  # another one each time: the kernel counts processes by user
        away += ["--reuid", user, "--regid", user, "--clear-groups"]
    return ["/bin/sh", "-c", script, "enter", options, str(PRIVATE), "/usr/bin/setpriv", *away]
