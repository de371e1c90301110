"""Plans in the sandbox of a real work process: the bytes are the same, and what hostile code tries comes to nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from foedus.local.kinds import load_plan
from foedus.local.plan import build_model, tensors_of
from foedus.node.frames import Done, Failed
from foedus.node.policy import Policy, Resources
from foedus.node.session import Session
from foedus.node.workers import Patience, Pool
from foedus.sandbox.bubblewrap import unavailable
from foedus.wire.messages import Sends
from tests.holding import INSTALL
from tests.load import stretched
from tests.unit.node.support import PLAN, Desk, assignment, bundle_of, children, names, truth

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=INSTALL)

SMALL = Policy(resources=Resources(memory=512 << 20, temporary=8 << 20, processes=40, cpu_seconds=60))
SENDS = Sends(parts=("parameters",), weights=("examples",), metrics=("loss",))
CANARY = "canary-7f3a"

Result = TypeVar("Result")


def nothing() -> None:
    """Nobody needs to know."""


def pooled(
    desk: Desk,
    what: Callable[[Pool], Awaitable[Result]],
    policy: Policy = SMALL,
    idle: float = 60.0,
    largest: int = 1 << 20,
) -> Result:
    async def working() -> Result:
        pool = Pool(desk.folder / "home", Patience(idle, 60.0, 2, largest), lambda _: policy)
        try:
            return await what(pool)
        finally:
            await pool.close()

    return asyncio.run(working())


def asked(desk: Desk, policy: Policy = SMALL, idle: float = 60.0, rounds: int = 1) -> list[Done | Failed]:
    """What the plan of a desk comes to in a pool, round after round."""

    async def working(pool: Pool) -> list[Done | Failed]:
        orders = [desk.order(truth().model, round=number, sends=SENDS) for number in range(1, rounds + 1)]
        return [await pool.ask(order, desk.folder, nothing) for order in orders]

    return pooled(desk, working, policy, idle)


def plan(body: str) -> str:
    """The plan, whose loss does something else first."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    imports = "import json, os, pathlib, signal, struct, sys, time"
    return f"{PLAN}\n{imports}\n\ndef loss(output, target):\n{lines}\n"


def failed(desk: Desk, idle: float = 60.0, policy: Policy = SMALL) -> Failed:
    (answer,) = asked(desk, policy, idle)
    assert isinstance(answer, Failed), answer
    return answer


def family_is_gone(desk: Desk) -> bool:
    """Whether nothing runs any more that was started for this desk."""
    mine = str(desk.folder)
    running = [each for each in psutil.process_iter(["cmdline"]) if mine in " ".join(each.info["cmdline"] or [])]
    _, alive = psutil.wait_procs(running, timeout=60)
    return not alive and children() == []


def test_the_bytes_are_those_of_a_session_outside_and_its_folder_is_gone(tmp_path: Path) -> None:
    desk, here = Desk(tmp_path / "desk"), Desk(tmp_path / "here")
    session = Session(here.bundle, assignment(here.bundle))
    (desk.folder / "data.npz").chmod(0o604)
    answers = asked(desk, rounds=2)
    for number, done in enumerate(answers, 1):
        expected = session.work(here.order(truth().model, round=number), nothing)
        assert isinstance(done, Done), done
        assert (done.weights, done.metrics) == (expected.done.weights, expected.done.metrics)
    assert (desk.folder / "update").read_bytes() == expected.update
    assert (desk.folder / "state").read_bytes() == expected.state
    assert (desk.folder / "data.npz").stat().st_mode & 0o777 == 0o604, "a dataset's mode is its owner's"
    assert list((desk.folder / "home" / "work").iterdir()) == []
    assert children() == []


ATTACKS = """
import ctypes, errno, fcntl, json, mmap, os, pathlib, signal, socket, subprocess, sys, time

said = {}


def tried(name, what):
    try:
        said[name] = repr(what())[:60]
    except BaseException as error:
        said[name] = "!" + (errno.errorcode.get(getattr(error, "errno", None)) or type(error).__name__)


def call(number):
    if ctypes.CDLL(None, use_errno=True).syscall(number, 0, 0, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "")


def called(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def grown():
    blocks = []
    while True:
        blocks.append(bytearray(64 << 20))


def forked():
    made = []
    try:
        while len(made) < 500:
            if (child := os.fork()) == 0:
                time.sleep(30)
                os._exit(0)
            made.append(child)
    finally:
        for child in made:
            os.kill(child, 9)
            os.waitpid(child, 0)


def filled(count, size):
    try:
        for number in range(count):
            with open(f"/private/f{number}", "wb") as file:
                file.write(bytes(size))
    finally:
        for name in os.listdir("/private"):
            os.remove(f"/private/{name}")


def sparse():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("/private/sparse", "wb") as file:
        file.truncate(1 << 40)


def everything():
    global data
    data = next(str(path) for path in pathlib.Path("/foedus").glob("data*"))
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    for case, tries in TRIED.items():
        for line in tries:
            tried(f"{case} {line}", lambda: eval(line))
    for number in others:
        for what in ("environ", "mem", "root/etc/passwd", "cwd/key"):
            tried(f"59 {number}/{what}", lambda: CANARY_IN(open(f"/proc/{number}/{what}", "rb").read(4096)))
    facts = {
        "environment": sorted(os.environ),
        "numbers": sorted(map(int, others)),
        "user": [os.getuid(), *os.getgroups()],
        "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")],
        "shown": sorted(os.listdir("/foedus")),
    }
    raise ValueError("SAID" + json.dumps([said, facts]) + "DIAS")


def CANARY_IN(content):
    if content and CANARY.encode() not in content:
        raise KeyError("there is nothing of the node's in it")
    return content


def loss(output, target):
    everything()
"""

X86 = os.uname().machine == "x86_64"
"""Where the calls have these numbers."""

TRIED = {
    "59": [
        "open('/etc/passwd').read()",
        "open('/etc/shadow').read()",
        "open(KEY).read()",
        "open(VAULT, 'rb').read()",
        "open(OTHER).read()",
        "os.listdir(HOME)",
        "os.listdir('/')",
        "os.listdir('/home')",
        "os.listdir('/root')",
        "os.listdir('/var')",
        "open('/proc/kcore', 'rb').read(8)",
        "open('/proc/1/environ', 'rb').read().index(b'CANARY')",
        "os.environ['CANARY']",
        "os.kill(AGENT, 9)",
        "open('/proc/self/mem', 'r+b').name and open(f'/proc/{os.getppid()}/mem', 'rb').read(8)",
    ],
    "60": [
        "socket.socket()",
        "socket.socket(socket.AF_INET6)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "socket.create_connection(('127.0.0.1', PORT), 2)",
        "socket.getaddrinfo('localhost', 80)",
        "socket.gethostbyname('example.org')",
    ],
    "61": [
        "forked()",
        "sparse()",
        "filled(100, 1 << 20)",
        "filled(1_000_000, 0)",
        "mmap.mmap(-1, 100 << 30)",
        "mmap.mmap(-1, 100 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
        "grown()",
        "[open('/dev/null') for _ in range(100_000)]",
        "open('/dev/shm/x', 'wb')",
        "os.memfd_create('x')",
        "called('shmget', 0, 64 << 20, 0o1600)",
        "called('msgget', 0, 0o1600)",
        "called('semget', 0, 10, 0o1600)",
    ],
    "62": [
        *(f"call({number})" for number in (101, 165, 272, 308, 250, 321, 425, 310, 298, 323, 304) if X86),
        "fcntl.ioctl(0, 0x5412, b'x')",
        "os.setuid(0)",
        "subprocess.run(['/usr/bin/unshare', '-r', 'true'], check=True)",
    ],
    "63": [
        "open('/etc/x', 'w')",
        "open('/x', 'w')",
        "open('/usr/x', 'w')",
        "open('/foedus/given/plan', 'r+')",
        "open(data, 'r+b')",
        "os.chmod(data, 0o777)",
        "os.truncate(data, 0)",
        "os.remove(data)",
        "os.symlink('/etc', '/foedus/given/x')",
        "os.symlink('/etc/passwd', '/private/l') or open('/private/l').read()",
        "os.link(data, '/private/h')",
        "os.link('/foedus/given/plan', '/private/h')",
        "os.mkfifo('/foedus/given/fifo')",
        "os.mknod('/private/sda', 0o60666, os.makedev(8, 0))",
        "open('/foedus/given/../../../../../etc/hostname').read()",
    ],
}


@dataclass(frozen=True)
class Story:
    """What a hostile plan said of everything that it tried, and the node's files before and after."""

    said: dict[str, str]
    facts: dict[str, Any]
    answer: Failed
    files: tuple[dict[str, tuple[int, bytes]], dict[str, tuple[int, bytes]]]

    def came_to(self, case: str) -> dict[str, str]:
        """What each try of a case came to."""
        return {name: what for name, what in self.said.items() if name.startswith(case)}


def photographed(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its mode, but for what a work process is made of."""
    files = [path for path in folder.rglob("*") if path.is_file() and not {"work", "logs"} & set(path.parts)]
    return {str(path): (path.stat().st_mode, path.read_bytes()) for path in files}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """One work process that tries everything."""
    folder = tmp_path_factory.mktemp("hostile")
    home, other = folder / "desk" / "home", folder / "other.npz"
    home.mkdir(parents=True)
    for path in (home / "key", home / "vault.db", other):
        path.write_text(CANARY)
    with socket.socket() as listening, pytest.MonkeyPatch.context() as patch:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        patch.setenv("CANARY", CANARY)
        names = {"KEY": str(home / "key"), "VAULT": str(home / "vault.db"), "OTHER": str(other), "HOME": str(home)}
        values = {**names, "AGENT": os.getpid(), "PORT": listening.getsockname()[1], "TRIED": TRIED, "CANARY": CANARY}
        known = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        desk = Desk(folder / "desk", bundle_of(f"{PLAN}\n{known}\n{ATTACKS}"))
        desk.order(truth().model)
        before = photographed(folder)
        answer = failed(desk)
        after = photographed(folder)
    assert answer.code == "plan_failed" and "DIAS" in answer.detail, answer.detail[-2000:]
    said, facts = json.loads(answer.detail.rpartition("SAID")[2].partition("DIAS")[0])
    return Story(said, facts, answer, (before, after))


def test_case_59_it_reads_no_file_key_dataset_environment_or_memory_of_the_node_s(story: Story) -> None:
    tries = story.came_to("59")
    assert len(tries) >= len(TRIED["59"]) + 4 and all(what.startswith("!") for what in tries.values()), tries
    assert CANARY not in story.answer.detail + story.answer.reason
    assert all(number < 10 for number in story.facts["numbers"]), "only its own"
    assert not [name for name in story.facts["environment"] if "CANARY" in name or name.startswith("FOEDUS")]
    assert story.facts["shown"] == ["data.npz", "given"]


def test_case_60_it_opens_no_socket_and_resolves_no_name(story: Story) -> None:
    tries = story.came_to("60")
    assert len(tries) == len(TRIED["60"]) and all(what.startswith("!") for what in tries.values()), tries
    kinds = [what for name, what in tries.items() if "socket.socket(" in name]
    assert set(kinds) == {"!EPERM"}


def test_case_61_it_takes_no_more_than_it_was_given(story: Story) -> None:
    tries = list(story.came_to("61").values())
    forked, sparse, filled, files, shared, private, grown, opened, memory, *uncounted = tries
    assert forked == "!EAGAIN" and sparse == "!EFBIG" and filled == files == "!ENOSPC"
    assert shared == private == "!ENOMEM" and grown == "!MemoryError" and opened == "!EMFILE"
    assert memory.startswith("!") and uncounted == ["!EPERM"] * 4


def test_case_62_the_kernel_s_dangerous_doors_are_shut(story: Story) -> None:
    tries = story.came_to("62")
    *calls, unshare = tries.values()
    assert len(tries) == len(TRIED["62"]) and set(calls) == {"!EPERM"} and unshare == "!CalledProcessError", tries
    assert set(story.facts["capabilities"]) == {"0" * 16}
    assert os.geteuid() != 0 or story.facts["user"][0] != 0, "a root's node makes it somebody else"


def test_case_63_it_writes_nowhere_but_in_its_own_folder_and_links_lead_nowhere(story: Story) -> None:
    tries = story.came_to("63")
    assert len(tries) == len(TRIED["63"]) and all(what.startswith("!") for what in tries.values()), tries
    before, after = story.files
    assert after == before, "neither contents nor modes of what it was shown have changed"


MANY = """
for _ in range(12):
    if os.fork() == 0:
        break
held = b"x" * (100 << 20)
time.sleep(60)
"""
BOMB = """
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_case_24_work_that_ends_badly_is_told_by_its_kind_and_dies_with_its_tree(tmp_path: Path) -> None:
    """No memory for it, no memory for all that it started, a kill, a hang behind a fork bomb."""
    for name, body, code in (
        ("alone", "torch.zeros(1 << 34)", "out_of_memory"),
        ("many", MANY, "out_of_memory"),
        ("kill", "os.kill(os.getpid(), signal.SIGKILL)", "work_killed"),
        ("bomb", BOMB, "work_stalled"),
    ):
        desk = Desk(tmp_path / name, bundle_of(f"{plan(body)}\nimport torch\n"))
        answer = failed(desk, idle=3.0 if name == "bomb" else 60.0)
        assert answer.code == code, answer
        assert str(tmp_path) not in answer.reason and family_is_gone(desk)


def test_case_24_a_full_disk_of_the_node_s_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    desk = Desk(
        tmp_path / "desk", bundle_of(PLAN.replace("nn.Linear(4, 3)", "nn.Linear(4, 20_000), nn.Linear(20_000, 3)"))
    )
    model = tensors_of(build_model(load_plan(desk.bundle), 3))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=True)
    try:
        answer = pooled(desk, lambda pool: pool.ask(desk.order(model), disk, nothing))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert isinstance(answer, Failed) and answer.code == "disk_full"
    assert family_is_gone(desk)


def test_case_25_what_forks_daemonises_and_ignores_signals_is_gone_with_its_run(tmp_path: Path) -> None:
    daemon = """
if not pathlib.Path("/private/up").exists():
    pathlib.Path("/private/up").touch()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/usr/bin/sleep", ["sleep", "86397"])
        os._exit(0)
return nn.functional.cross_entropy(output, target)
"""
    desk = Desk(tmp_path / "desk", bundle_of(plan(daemon)))

    async def working(pool: Pool) -> tuple[list[psutil.Process], float]:
        assert isinstance(await pool.ask(desk.order(truth().model), desk.folder, nothing), Done)
        family = children(recursive=True)
        while "sleep" not in names(family):
            await asyncio.sleep(0.05)
            family = children(recursive=True)
        began = time.monotonic()
        await pool.drop("r_1")
        return family, time.monotonic() - began

    family, took = pooled(desk, working)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert len(family) >= 3 and not alive
    assert took < stretched(15), "grace and five seconds"


def test_case_56_what_runs_is_what_was_hashed(tmp_path: Path) -> None:
    """The file is swapped between its check and its use, under a process that runs and under one that begins."""
    desk, other = Desk(tmp_path / "desk"), bundle_of(plan("raise SystemError('swapped')"))
    stored = desk.folder / "bundle.json"

    async def working(pool: Pool) -> list[Done | Failed]:
        first = desk.order(truth().model)
        answers = [await pool.ask(first, desk.folder, nothing)]
        stored.write_bytes(other.to_bytes())
        answers.append(await pool.ask(first, desk.folder, nothing))
        await pool.drop("r_1")
        answers.append(await pool.ask(first, desk.folder, nothing))
        return answers

    runs, goes_on, begins = pooled(desk, working)
    assert isinstance(runs, Done) and isinstance(goes_on, Done) and runs.metrics == goes_on.metrics
    assert isinstance(begins, Failed) and begins.code == "plan_digest"
    assert "swapped" not in begins.detail


SMUGGLER = """
rows = bytes(range(65, 91)).decode()
pipes = []
for end in range(3, 100):
    try:
        pipes += [end] * os.readlink(f"/proc/self/fd/{end}").startswith("pipe:")
    except OSError:
        pass
def forged(frame, *contents):
    content = json.dumps(frame).encode()
    for end in pipes:
        try:
            os.write(end, struct.pack("<I", len(content)) + content + b"".join(contents))
        except OSError:
            pass
KIND
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("done = {'kind': 'done', 'weights': {'examples': 1.0}, 'metrics': {rows: 1.0}, 'seconds': 1.0, 'update': 0, "
         "'state': 0}\nforged(done)", "output_refused"),
        ("forged({'kind': 'failed', 'code': rows, 'reason': rows, 'detail': rows})", "work_failed"),
    ],
    ids=["a metric's name", "a failure's words"],
)  # fmt: skip
def test_case_64_frames_that_a_plan_forges_carry_no_rows_out(tmp_path: Path, kind: str, code: str) -> None:
    desk = Desk(tmp_path / "desk", bundle_of(plan(SMUGGLER.replace("KIND", kind))))
    answer = failed(desk)
    assert answer.code == code, answer
    assert "ABCDEF" not in answer.code + answer.reason + answer.raised + answer.file


def test_case_64_what_a_plan_prints_and_calls_its_files_stays_and_tensors_that_it_adds_are_refused(
    tmp_path: Path,
) -> None:
    talk = "print('canary-of-a-row')\npathlib.Path('/private/canary-of-a-row').touch()\n"
    desk = Desk(
        tmp_path / "desk", bundle_of(plan(f"{talk}{EXTRA}\nreturn nn.functional.cross_entropy(output, target)"))
    )
    first, second = asked(desk, rounds=2)
    assert isinstance(first, Done) and "canary" not in first.model_dump_json()
    assert b"canary" not in (desk.folder / "update").read_bytes()
    assert "canary" in (desk.folder / "home" / "logs" / "work.log").read_text(), "its owner may read it"
    assert isinstance(second, Failed) and second.code == "output_refused"


EXTRA = """
import foedus.node.session as there
made = there.run_client
def more(*given):
    contribution, state = made(*given)
    contribution.update["parameters"]["row_5_1_3_5"] = output.detach().clone()
    return contribution, state
there.run_client = more
"""
"""A plan runs in the process that writes the update: it can have anything written."""


def test_an_update_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    large = PLAN.replace("nn.Linear(4, 3)", "nn.Linear(4, 200_000), nn.Linear(200_000, 3)")
    desk = Desk(tmp_path / "desk", bundle_of(large))
    model = tensors_of(build_model(load_plan(desk.bundle), 3))
    answer = pooled(desk, lambda pool: pool.ask(desk.order(model), desk.folder, nothing))
    assert isinstance(answer, Failed) and answer.code == "update_too_large", answer
    assert not (desk.folder / "update").exists()


def test_a_file_larger_than_the_memory_of_what_made_it_is_not_read(tmp_path: Path) -> None:
    """Through its pipe a plan could fill the node's disk."""
    done = {"kind": "done", "weights": {}, "metrics": {}, "seconds": 1.0, "update": 0, "state": 0}
    model = {"when": "pre", "round": 1, "size": SMALL.resources.memory + 1, "scores": {"best": 1.0}}
    forged = {**done, "models": [model]}
    desk = Desk(tmp_path / "desk", bundle_of(plan(SMUGGLER.replace("KIND", f"forged({forged})"))))
    order = desk.order(truth().model)
    answer = pooled(desk, lambda pool: pool.ask(order, desk.folder, nothing), idle=20.0, largest=32 << 30)
    assert isinstance(answer, Failed) and answer.code == "update_too_large", answer


def test_without_a_sandbox_the_owner_has_opted_out(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    line = f"pathlib.Path({str(sign)!r}).write_text('x')\nreturn nn.functional.cross_entropy(output, target)"
    (free,) = asked(Desk(tmp_path / "desk", bundle_of(plan(line))), Policy(sandbox="off"))
    assert isinstance(free, Done) and sign.read_text() == "x"
