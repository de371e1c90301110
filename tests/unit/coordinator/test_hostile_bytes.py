"""Bytes that pose as something else, archives, and paths in place of names and ids."""

from __future__ import annotations

import ast
import base64
import gzip
import hashlib
import io
import itertools
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from foedus.domain.codec import decode, encode_tensors
from foedus.domain.errors import IntegrityError, PlanError, TooLargeError
from foedus.domain.plan import parse_bundle
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import Signer
from tests.unit.coordinator.door import API, BOOT, Door, code, opened
from tests.unit.coordinator.scene import PLAN, initial_model

SOURCE = Path(__file__).parents[3] / "src" / "foedus"
SERVED = ("coordinator", "store", "wire", "domain", "client", "node", "aggregation", "schedules")
"""Packages that see bytes of other parties."""

UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
UNPACKING = {"zipfile", "tarfile", "gzip", "bz2", "lzma", "zlib", "shutil.unpack_archive"}
EVALUATING = {"eval", "exec", "compile", "__import__"}


class Exploit:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def zipped(*names: str, size: int = 10) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(size))
    return buffer.getvalue()


def tarred() -> bytes:
    """A link to outside, and a file through it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
        archive.addfile(link)
        inner = tarfile.TarInfo("out/evil")
        archive.addfile(inner, io.BytesIO(b""))
    return buffer.getvalue()


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(2), "x": Exploit()}, buffer)
    return buffer.getvalue()


POSING = {
    **{f"pickle, protocol {number}": pickle.dumps(Exploit(), protocol=number) for number in range(6)},
    "npy of objects": npy(np.array([Exploit()], dtype=object), allow_pickle=True),
    "npy": npy(np.zeros(3)),
    "npz": zipped("w.npy"),
    "torch": saved(),
    "gzip": gzip.compress(bytes(1000)),
    "gzip bomb": gzip.compress(bytes(10 << 20)),
    "zip bomb": zipped("plan.py", size=10 << 20),
    "nested zip": zipped("a/b.zip"),
    "many entries": zipped(*(f"f{number}" for number in range(5000))),
    "zip of paths": zipped("../evil", "/etc/evil", "C:\\evil", "a\\..\\evil"),
    "tar with a link": tarred(),
    "a safetensors file in gzip": gzip.compress(encode_tensors({"w": torch.zeros(2)})),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(500),
    "ELF": b"\x7fELF" + bytes(500),
}


@pytest.mark.parametrize("name", POSING)
def test_cases_37_and_39_what_poses_as_tensors_or_a_plan_is_refused(name: str) -> None:
    """Whatever its name or kind: magic bytes decide, nothing is unpickled, unpacked or inflated."""
    with pytest.raises((IntegrityError, TooLargeError)):
        decode(POSING[name])
    with pytest.raises((PlanError, TooLargeError)):
        parse_bundle(POSING[name])


def _calls_and_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Call):
            yield ast.unparse(node.func)
            yield from (f"{keyword.arg}=True" for keyword in node.keywords if ast.unparse(keyword.value) == "True")


@pytest.mark.parametrize("package", SERVED)
def test_cases_37_and_39_no_unpickler_no_unpacker_and_no_evaluation_in_the_source(package: str) -> None:
    found = []
    for path in (SOURCE / package).rglob("*.py"):
        for name in _calls_and_imports(ast.parse(path.read_text())):
            unsafe = name.split(".")[0] in UNSAFE | UNPACKING or name in {"torch.load", "np.load", "allow_pickle=True"}
            if unsafe or name in EVALUATING:
                found.append(f"{path.relative_to(SOURCE)}: {name}")
    assert found == []


HOOKED = """
import sys
found = []
def hook(name, arguments):
    if name in ("pickle.find_class", "marshal.loads", "shutil.unpack_archive") or name.startswith("zipfile"):
        found.append((name, arguments))
from tests.unit.coordinator.test_hostile_bytes import attack
from tests.unit.coordinator.door import opened
from pathlib import Path
with opened(Path(sys.argv[1])) as door:
    door.enrol("warm-up")
    sys.addaudithook(hook)
    attack(door)
    seen = [name for name, _ in found if name != "marshal.loads"]
    assert seen == [], seen
print("nothing was unpickled")
"""


def attack(door: Door) -> None:
    """Send every impostor through every door that takes bytes."""
    node = door.enrol("attacker")
    for number, content in enumerate(POSING.values()):
        digest = hashlib.sha256(content).hexdigest()
        assert door.signed(node, "PUT", f"/blobs/{digest}", content).status_code == 201
        body = {"spec": {}, "plan": PLAN.digest, "plan_blob": digest, "parameters": digest, "manifest": {}}
        headers = {"Idempotency-Key": f"attack-{number:04}"}
        for sent in (json.dumps(body).encode(), content):
            assert door.ask("POST", "/runs", content=sent, headers=headers).status_code in {400, 404, 413, 422}
        for path in ("/node/hello", "/node/poll", "/node/assignments/as_1/contribute"):
            assert door.signed(node, "POST", path, content).status_code in {400, 413}
        packed = door.ask("POST", "/runs", content=content, headers={**headers, "Content-Encoding": "gzip"})
        assert packed.status_code in {400, 413, 415}


def test_case_37_nothing_is_unpickled_while_impostors_knock(tmp_path: Path) -> None:
    """The interpreter itself would tell (an audit hook), in a process that serves the coordinator."""
    done = subprocess.run([sys.executable, "-c", HOOKED, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "nothing was unpickled"


EVIL_NAMES = [
    "../plan.py",
    "a/../../plan.py",
    "/etc/passwd",
    "C:\\plan.py",
    "C:/plan.py",
    "a\\plan.py",
    "..\\plan.py",
    "plan.py\x00.txt",
    ".hidden",
    "a//b.py",
    "a/./b.py",
    "con\n.py",
    "~root/plan.py",
    "．．/plan.py",
    "a" * 500,
    "",
    " plan.py",
    "plan.py ",
]


@pytest.mark.parametrize("name", EVIL_NAMES, ids=ascii)
def test_cases_39_and_41_names_of_files_in_a_plan_become_no_paths(name: str) -> None:
    files = {"plan.py": b"model = loss = None\n", name: b"x"}
    rows = {path: base64.b64encode(content).decode() for path, content in files.items()}
    with pytest.raises(PlanError) as refused:
        parse_bundle(json.dumps({"entry": "plan.py", "files": rows}, sort_keys=True, separators=(",", ":")).encode())
    assert refused.value.code == "plan_malformed"


def test_case_39_names_that_differ_in_case_alone_are_refused() -> None:
    rows = {name: base64.b64encode(b"x").decode() for name in ("plan.py", "tools.py", "Tools.py")}
    with pytest.raises(PlanError):
        parse_bundle(json.dumps({"entry": "plan.py", "files": rows}, sort_keys=True, separators=(",", ":")).encode())


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("hostile")) as found:
        yield found


TRICKS = [
    "..%2f..%2fcoordinator.db",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252fkey",
    "..%5c..%5ckey",
    "a%2f..%2fb",
    "%00",
    "as_1%00",
    "as_1;x=1",
    "as_1%23x",
    "as_1%3fx=1",
    "%ef%bc%8e%ef%bc%8e%ef%bc%8f",
    "%c0%ae%c0%ae%2f",
    "CON",
    "a" * 5000,
    "%27%20OR%201=1--",
    "%24%7bHOME%7d",
]


def test_case_41_no_id_of_any_path_becomes_a_path(door: Door) -> None:
    """Every route with an id in it, from the API's own description, as an admin and as a node."""
    node, before = door.enrol("curious"), door.files()
    document = door.client.get(f"{door.url}/openapi.json").json()
    routes = [(path, method) for path, found in document["paths"].items() if "{" in path for method in found]
    assert len(routes) >= 15
    for (path, method), trick in itertools.product(routes, TRICKS):
        target = path
        while "{" in target:
            start, stop = target.index("{"), target.index("}")
            target = target[:start] + trick + target[stop + 1 :]
        headers = {"Authorization": f"Bearer {door.token}", "Upload-Offset": "0", "Idempotency-Key": "traverse-00"}
        request = httpx.Request(method.upper(), door.url + target, headers=headers, content=b"{}")
        reply = door.client.send(request)
        assert 400 <= reply.status_code < 500, (method, target, reply.status_code, reply.text)
        assert "coordinator.db" not in reply.text.replace(trick, "") and "root:" not in reply.text
        if target.startswith(API) and "/node/" in target:
            assert 400 <= door.signed(node, method.upper(), target[len(API) :], b"{}").status_code < 500
    assert door.files() == before


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "..", ".", "", "a\x00", "a b", "%2e%2e", "．．", "a" * 65, "-a"]
)
def test_case_41_no_received_name_becomes_a_path(name: str, door: Door) -> None:
    """Names of nodes, clients, tags, users and organisations are letters, digits and three signs."""
    key = generate_key()
    public, token = public_key(key), door.ask("POST", "/join-tokens").json()["token"]
    join = {"token": token, "name": name, "public_key": public}
    reply = door.signed(Signer(public, key), "POST", "/node/join", json.dumps(join).encode())
    assert (reply.status_code, code(reply)) == (400, "message_malformed")
    node = door.enrol(f"named-{abs(hash(name))}")
    for dataset in ({"client": name, "tags": [], "examples": 1}, {"client": "c", "tags": [name], "examples": 1}):
        hello = json.dumps({"boot": BOOT, "version": "1", "datasets": [dataset]}).encode()
        assert code(door.signed(node, "POST", "/node/hello", hello)) == "message_malformed"
    for path, body in (("/orgs", {"name": name}), ("/users", {"name": name}), ("/tokens", {"name": name})):
        headers = {"Idempotency-Key": "named-000"}
        assert code(door.ask("POST", path, json=body, headers=headers)) == "message_malformed"
    for field in ("organisation", "name"):
        if name:
            assert door.ask("POST", "/join-tokens", json={field: name}).status_code in {400, 404}


def test_a_message_nests_so_deep_and_no_deeper(door: Door) -> None:
    """Case 35: JSON a thousand deep is refused at the door, in messages and in a run's specification."""
    for deep in (b"[" * 1000 + b"]" * 1000, b'{"spec":' + b'{"a":' * 1000 + b"1" + b"}" * 1001, b"[" * 1_000_000):
        for path in ("/runs", "/tokens", "/join-tokens"):
            reply = door.ask("POST", path, content=deep, headers={"Idempotency-Key": "deeply-00"})
            assert (reply.status_code, code(reply)) == (400, "message_malformed")
    assert decode(encode_tensors(initial_model()))
