"""A held process sees nothing of the machine, reaches nobody, and takes no more than it was given (cases 59 to 63)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from foedus.domain.errors import StorageError
from foedus.sandbox import bubblewrap
from foedus.sandbox.bubblewrap import Sandbox, command, unavailable
from foedus.sandbox.limits import Limits
from tests.holding import INSTALL
from tests.unit.node.support import names

SOURCE = Path(bubblewrap.__file__).parents[2]
SMALL = Limits(memory=256 << 20, temporary=16 << 20, entries=1000, processes=20, files=64, cpu=20)

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=INSTALL)

PREAMBLE = """
import ctypes, errno, json, os, resource, socket, subprocess, sys, time
from foedus.sandbox.confine import confine
from foedus.sandbox.limits import Limits, apply
confine()
apply(Limits(*json.loads(sys.argv[1])))
libc = ctypes.CDLL(None, use_errno=True)
said = {}

def tried(name, what):
    try:
        said[name] = repr(what())
    except BaseException as error:
        said[name] = f"{type(error).__name__}: {errno.errorcode.get(getattr(error, 'errno', None), error)}"

def call(*arguments):
    if libc.syscall(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return "done"
"""
END = "\nprint(json.dumps(said))\n"


def program(code: str, limits: Limits = SMALL, python: str = sys.executable) -> list[str]:
    return [python, "-P", "-c", PREAMBLE + code + END, json.dumps(list(vars(limits).values()))]


def hold(
    code: str, shown: Mapping[str, Path] | None = None, limits: Limits = SMALL, timeout: float = 240
) -> dict[str, Any]:
    """What a program in the sandbox said at its end; empty where it did not come to it."""
    sandbox = Sandbox(shown or {}, limits, {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin"})
    words = command(sandbox, program(code, limits))
    ran = subprocess.run(words, env={}, capture_output=True, text=True, timeout=timeout, check=False)
    said: dict[str, Any] = json.loads(ran.stdout) if ran.stdout.endswith("}\n") else {}
    return {**said, "code": ran.returncode, "err": ran.stderr[-2000:]}


def test_case_59_files_keys_and_other_processes_are_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOEDUS_TOKEN", "canary-of-the-environment")
    (tmp_path / "key").write_text("canary of the node")
    said = hold(
        f"""
key = {str(tmp_path / "key")!r}
for path in ("/etc/passwd", "/etc/shadow", key, "/root/.ssh", "/home", "/var", "/proc/kcore", "/sys"):
    tried(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read())
tried("environment", lambda: dict(os.environ))
tried("processes", lambda: sorted(int(name) for name in os.listdir("/proc") if name.isdigit()))
for number in os.listdir("/proc"):
    if number.isdigit() and int(number) != os.getpid():
        for what in ("environ", "mem", "cwd/../key"):
            tried(f"{{number}}/{{what}}", lambda: open(f"/proc/{{number}}/{{what}}", "rb").read(64))
tried("user", lambda: (os.getuid() == 0, os.getgroups(), os.getpid() < 20))
tried("interfaces", lambda: [name for _, name in socket.if_nameindex()] if False else os.listdir("/proc/net/dev"))
"""
    )
    assert said["code"] == 0, said
    text = json.dumps(said)
    assert "canary" not in text and "root:" not in text
    unseen = ["/etc/passwd", "/etc/shadow", str(tmp_path / "key"), "/root/.ssh", "/home", "/var", "/sys"]
    for path in unseen:
        assert said[path].split(": ")[-1] in ("ENOENT", "EACCES"), (path, said[path])
    assert len(json.loads(said["processes"])) <= 3
    assert said["user"].startswith("(False")
    assert [said[name] for name in said if name.endswith("/mem")] and all(
        "Error" in said[name] for name in said if name.endswith("/mem")
    )
    assert all("FOEDUS" not in value for value in said.values() if isinstance(value, str))


def test_case_60_no_socket_of_any_kind_can_be_opened() -> None:
    with socket.socket() as listening, socket.socket(socket.AF_UNIX) as abstract:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        abstract.bind("\0foedus-test-abstract")
        abstract.listen()
        said = hold(
            f"""
for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"):
    for kind in ("SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW"):
        tried(family + kind, lambda: socket.socket(getattr(socket, family), getattr(socket, kind)))
tried("connect", lambda: socket.create_connection(("127.0.0.1", {listening.getsockname()[1]}), 2))
tried("name", lambda: socket.getaddrinfo("localhost", 80))
tried("pair", lambda: [end.close() for end in socket.socketpair()])
"""
        )
    assert said["code"] == 0, said
    opened = [name for name in said if name.startswith("AF_") and "EPERM" not in said[name]]
    assert not opened and len(said) > 20
    assert "Error" in said["connect"] and "rror" in said["name"]
    assert said["pair"] == "[None, None]", "two ends within a process harm nobody"


def test_case_61_nothing_is_taken_without_bounds() -> None:
    said = hold(
        """
def forks():
    children = []
    try:
        while len(children) < 1000:
            child = os.fork()
            if child == 0:
                time.sleep(20)
                os._exit(0)
            children.append(child)
    except OSError as error:
        return len(children), errno.errorcode[error.errno]
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)
    return len(children)
said["forks"] = forks()
def sparse():
    with open("/private/sparse", "wb") as file:
        os.truncate(file.fileno(), 1 << 40)
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tried("sparse", sparse)
def filled():
    number = 0
    while True:
        with open(f"/private/full{number}", "wb") as file:
            file.write(bytes(1 << 20))
        number += 1
tried("filled", filled)
said["written"] = sum(os.path.getsize(f"/private/{name}") for name in os.listdir("/private"))
def many():
    for number in range(1_000_000):
        open(f"/private/{number}", "wb").close()
for name in os.listdir("/private"):
    os.remove(f"/private/{name}")
tried("many", many)
import mmap
tried("private", lambda: mmap.mmap(-1, 100 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
tried("shared", lambda: mmap.mmap(-1, 100 << 30))
tried("bytes", lambda: bytearray(1 << 30))
def opened():
    files = []
    while True:
        files.append(open("/dev/null"))
tried("opened", opened)
tried("memory file", lambda: os.memfd_create("x"))
def called(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
tried("segment", lambda: called("shmget", 0, 64 << 20, 0o1600))
tried("queue", lambda: called("msgget", 0, 0o1600))
tried("semaphores", lambda: called("semget", 0, 10, 0o1600))
tried("raised", lambda: resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096)))
for place in ("/", "/dev/shm", "/dev", "/foedus", "/usr", "/proc/sys/kernel/hostname"):
    tried(place, lambda: open(place if "proc" in place else f"{place}/x", "wb").write(b"x"))
"""
    )
    assert said["code"] == 0, said
    count, code = said["forks"]
    assert count < SMALL.processes and code == "EAGAIN"
    assert said["sparse"].endswith("EFBIG")
    assert said["filled"].endswith(("ENOSPC", "EFBIG")) and said["written"] <= SMALL.temporary
    assert said["many"].endswith("ENOSPC")
    assert "Error" in said["private"] and "Error" in said["shared"] and said["bytes"].startswith("MemoryError")
    assert said["opened"].endswith("EMFILE")
    for name in ("memory file", "segment", "queue", "semaphores"):
        assert said[name].endswith("EPERM"), "memory that no limit of a process's and no look at it counts"
    assert "Error" in said["raised"]
    for place in ("/", "/dev/shm", "/dev", "/foedus", "/usr", "/proc/sys/kernel/hostname"):
        assert "Error" in said[place], (place, said[place])


def test_case_61_a_busy_loop_ends_with_its_processor_time() -> None:
    limits = Limits(memory=256 << 20, temporary=1 << 20, entries=100, processes=20, files=64, cpu=2)
    said = hold("while True: pass", limits=limits)
    assert said["code"] in (128 + 9, 128 + 24, -9)


def test_case_62_the_kernel_s_dangerous_doors_are_shut() -> None:
    said = hold(
        """
import fcntl, signal
calls = {"ptrace": 101, "mount": 165, "umount2": 166, "unshare": 272, "setns": 308, "keyctl": 250, "add_key": 248,
    "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425, "perf_event_open": 298, "process_vm_readv": 310,
    "open_by_handle_at": 304, "pivot_root": 155, "kexec_load": 246, "init_module": 175, "fsopen": 430, "chroot": 161}
if os.uname().machine == "x86_64":
    for name, number in calls.items():
        tried(name, lambda: call(number, 0, 0, 0, 0, 0, 0))
    tried("namespace", lambda: call(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0))
    tried("clone3", lambda: call(435, 0, 0))
    tried("x32", lambda: call(0x40000000 + 39))
tried("TIOCSTI", lambda: fcntl.ioctl(0, 0x5412, b"x"))
tried("setuid", lambda: os.setuid(0))
tried("thread", lambda: __import__("threading").Thread(target=lambda: None).start())
"""
    )
    assert said["code"] == 0, said
    allowed = {name: told for name, told in said.items() if name.islower() and "EPERM" not in str(told)}
    assert set(allowed) == {"code", "err", "clone3", "thread"}, allowed
    assert said["clone3"].endswith("ENOSYS") and said["thread"] == "None"
    assert said["TIOCSTI"].endswith("EPERM")


def test_case_63_nothing_is_written_outside_the_private_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.csv").write_text("a,b\n1,2\n")
    said = hold(
        """
path = "/foedus/data/rows.csv"
tried("read", lambda: open(path).read())
tried("write", lambda: open(path, "w"))
tried("append", lambda: open(path, "a"))
tried("truncate", lambda: os.truncate(path, 0))
tried("remove", lambda: os.remove(path))
tried("mode", lambda: os.chmod(path, 0o777))
tried("beside", lambda: open("/foedus/data/new", "w"))
tried("again", lambda: open(f"/proc/self/fd/{os.open(path, os.O_RDONLY)}", "r+"))
tried("link", lambda: os.link(path, "/private/rows"))
tried("symlink", lambda: os.symlink("/etc/passwd", "/private/x") or open("/private/x").read())
tried("device", lambda: os.mknod("/private/sda", 0o60666, os.makedev(8, 0)))
tried("up", lambda: open("/foedus/../../../../etc/shadow").read())
""",
        {"data": data},
    )
    assert said["code"] == 0, said
    assert said["read"] == repr("a,b\n1,2\n")
    for name in set(said) - {"read", "code", "err"}:
        assert "Error" in said[name], (name, said[name])
    assert (data / "rows.csv").read_text() == "a,b\n1,2\n" and [p.name for p in data.iterdir()] == ["rows.csv"]


def test_case_25_whatever_it_started_ends_with_it() -> None:
    sandbox = Sandbox({}, SMALL, {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin"})
    code = """
import signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/usr/bin/sleep", ["sleep", "86399"])
    os._exit(0)
print("up", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen(command(sandbox, program(code)), env={}, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    try:
        end = time.monotonic() + 120
        family = psutil.Process(process.pid).children(recursive=True)
        while "sleep" not in names(family):
            assert time.monotonic() < end
            family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


def test_a_node_that_is_not_root_holds_with_a_user_namespace() -> None:
    python = shutil.which("python3", path="/usr/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("needs root, to be somebody else, and a Python in /usr/bin")
    source = Path("/var/tmp") / f"foedus-sandbox-{os.getpid()}"
    shutil.copytree(SOURCE / "foedus" / "sandbox", source / "foedus" / "sandbox")
    (source / "foedus" / "__init__.py").write_text("")
    (source / "foedus" / "domain").mkdir()
    for name in ("__init__.py", "errors.py"):
        shutil.copy(SOURCE / "foedus" / "domain" / name, source / "foedus" / "domain" / name)
    script = "id -u; grep Cap /proc/self/status; touch /private/x && echo made"
    code = (
        "import subprocess, sys; from foedus.sandbox.bubblewrap import Sandbox, command; "
        f"sys.exit(subprocess.run(command(Sandbox(), ['/bin/sh', '-c', {script!r}]), env={{}}).returncode)"
    )
    somebody = ["/usr/bin/setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups"]
    environment = {"PYTHONPATH": str(source), "PATH": "/usr/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(
            [*somebody, python, "-c", code],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        shutil.rmtree(source)
    assert ran.returncode == 0, ran.stderr
    user, *capabilities, made = ran.stdout.splitlines()
    assert (user, made) == ("0", "made"), "root in its own name space, of nothing, and without a capability"
    assert [int(line.split()[1], 16) for line in capabilities] == [0] * 5


def test_what_is_shown_through_a_link_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner's newest dataset is often a link, and so is the folder of this Python's version."""
    version, current, data = tmp_path / "foedus-1.2", tmp_path / "foedus", tmp_path / "data"
    for folder in (version, data):
        folder.mkdir()
    (version / "module").write_text("module")
    (data / "2026.csv").write_text("rows")
    current.symlink_to(version)
    (tmp_path / "newest").symlink_to(data)
    (data / "newest.csv").symlink_to("2026.csv")
    monkeypatch.setattr(sys, "prefix", str(current))
    shown = {"data.csv": data / "newest.csv", "data": tmp_path / "newest"}
    words = ["/bin/cat", f"{current}/module", "/foedus/data.csv", "/foedus/data/2026.csv"]
    ran = subprocess.run(command(Sandbox(shown), words), env={}, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "modulerowsrows"), ran.stderr


def test_two_held_processes_share_no_user() -> None:
    """The kernel counts processes by user: with one for all, a plan that forks starves the plans of other runs."""
    if os.geteuid() != 0:
        pytest.skip("who is not root has one user")
    told = [command(Sandbox(), ["/usr/bin/true"]) for _ in range(4)]
    assert len({words[words.index("--reuid") + 1] for words in told}) > 1


@pytest.fixture
def fresh() -> Iterator[None]:
    """Whether there can be a sandbox is found out again."""
    unavailable.cache_clear()
    yield
    unavailable.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_where_this_python_does_not_start_inside_there_is_no_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert "python" in unavailable()


@pytest.mark.usefixtures("fresh")
def test_where_a_sandbox_does_not_come_up_in_time_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bwrap").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(bubblewrap, "PATIENCE", 0.1)
    assert "0.1 s" in unavailable()


def test_without_bubblewrap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    unavailable.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    try:
        with pytest.raises(StorageError) as refused:
            command(Sandbox(), ["/usr/bin/true"])
        assert refused.value.code == "sandbox_unavailable" and "apt-get install bubblewrap" in str(refused.value)
    finally:
        unavailable.cache_clear()
