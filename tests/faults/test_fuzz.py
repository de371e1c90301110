"""What strangers may send: any header of a file, any JSON on any path. It is taken or refused, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foedus.coordinator.app import create_app, open_coordinator
from foedus.coordinator.checks import check_update
from foedus.coordinator.settings import Settings
from foedus.domain.codec import TensorFile, decode, encode
from foedus.domain.errors import FoedusError, IntegrityError, TooLargeError
from foedus.domain.header import HEADER_LIMIT, TensorSpec
from foedus.domain.round import PartSpec, Schema
from foedus.domain.tree import State
from foedus.wire.nonces import Nonces
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import RequestHead, Signer, Verifier, sign, verify_head

EXAMPLES = 2000 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 20
"""For each operation; `make soak` tries many."""

# What hypothesis finds slow here is a database, and the filters of a schema.
CALM = settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
near_entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "I64", "BOOL", "F8_E4M3", "", "f32"]) | trees,
        "shape": st.lists(st.integers(-(2**70), 2**70) | st.integers(0, 4), max_size=4) | trees,
        "data_offsets": st.lists(st.integers(-9, 2**70) | st.integers(0, 64), max_size=3) | trees,
    },
)
headers = st.dictionaries(
    st.sampled_from(["parameters/w", "w", "__metadata__", "../w", "a\0b", ""]) | st.text(max_size=8),
    near_entries | trees,
    max_size=5,
)
PART = PartSpec({"w": TensorSpec((2, 2), "float32")}, "examples")
SCHEMA = Schema({"parameters": PART}, ("examples",), ())


def _file(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def _refused_or_taken(content: bytes, folder: Path) -> None:
    """A file goes through every door: whole, by range, as an update."""
    path = folder / "file"
    path.write_bytes(content)

    def read() -> None:
        with TensorFile(path) as file:
            dict(file)

    for door in (lambda: decode(content), read, lambda: check_update(path, SCHEMA)):
        with contextlib.suppress(IntegrityError, TooLargeError):
            door()


@given(header=headers, body=st.binary(max_size=80), length=st.none() | st.integers(0, 2**64 - 1))
@CALM
def test_any_header_of_a_file_is_read_or_refused(
    header: dict[str, Any], body: bytes, length: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = json.dumps(header).encode()
    _refused_or_taken(_file(text, body, length), tmp_path_factory.getbasetemp())


@given(place=st.integers(0, 10**6), other=st.binary(min_size=1, max_size=8))
@CALM
def test_a_file_with_other_bytes_anywhere_is_read_or_refused(
    place: int, other: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = encode(State({"parameters": {"w": torch.ones(2, 2)}}))
    at = place % len(whole)
    _refused_or_taken(whole[:at] + other + whole[at + len(other) :], tmp_path_factory.getbasetemp())


@functools.cache
def _hostile() -> dict[str, bytes]:
    """The files of case 38, by what is wrong with each."""
    one = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    many = {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    metadata = {str(n): "x" * 50 for n in range(HEADER_LIMIT // 50)}
    return {
        "an endless header": _file(b"{}", length=2**63),
        "a header over the limit": _file(b"{" + b" " * HEADER_LIMIT + b"}"),
        "a key twice": _file(b'{"w":%b,"w":%b}' % ((json.dumps(one).encode(),) * 2), bytes(16)),
        "overlapping tensors": _file(json.dumps({"w": one, "v": one}).encode(), bytes(16)),
        "a gap": _file(json.dumps({"w": {**one, "data_offsets": [8, 24]}}).encode(), bytes(24)),
        "an offset past the end": _file(json.dumps({"w": {**one, "data_offsets": [0, 2**40]}}).encode(), bytes(16)),
        "a hundred thousand tensors": _file(json.dumps(many).encode()),
        "trailing bytes": _file(json.dumps({"w": one}).encode(), bytes(17)),
        "a header that is no UTF-8": _file(b'{"\xff":1}'),
        "endless metadata": _file(json.dumps({"__metadata__": metadata}).encode()),
        "nested a hundred thousand times": _file(b"[" * 100_000),
        "an overflowing shape": _file(json.dumps({"w": {**one, "shape": [2**62, 4]}}).encode(), bytes(16)),
    }


@pytest.mark.parametrize("wrong", _hostile())
def test_case_38_a_hostile_file_is_refused(wrong: str, tmp_path: Path) -> None:
    """Case 38: whatever is wrong with it, it is refused at each door."""
    path = tmp_path / "file"
    path.write_bytes(content := _hostile()[wrong])
    doors: tuple[Callable[[], object], ...] = (
        lambda: decode(content),
        lambda: TensorFile(path),
        lambda: check_update(path, SCHEMA),
    )
    for door in doors:
        with pytest.raises((IntegrityError, TooLargeError)):
            door()


@pytest.mark.soak
@pytest.mark.parametrize("wrong", _hostile())
def test_case_38_at_once_and_in_little_memory(wrong: str, tmp_path: Path) -> None:
    """Case 38: in 50 ms and 50 MB (the best of ten, because a machine may be busy)."""
    path = tmp_path / "file"
    path.write_bytes(_hostile()[wrong])
    process, times, before = psutil.Process(), [], psutil.Process().memory_info().rss
    for _ in range(10):
        began = time.perf_counter()
        with pytest.raises((IntegrityError, TooLargeError)):
            check_update(path, SCHEMA)
        times.append(time.perf_counter() - began)
    grown = process.memory_info().rss - before
    print(f"\ncase 38, {wrong}: {min(times) * 1000:.1f} ms, {grown / 1e6:.1f} MB")
    assert min(times) < 0.05 and grown < 50e6


class Knocker:
    """The application on a folder of its own, asked in this process; the admin's token, and a node that has joined."""

    def __init__(self, folder: Path, runner: asyncio.Runner) -> None:
        self.opened = open_coordinator(Settings(folder))
        assert self.opened.admin is not None
        self.token = self.opened.admin.token
        self.app = create_app(self.opened.context)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        self._runner = runner
        key = generate_key()
        token = self.ask("POST", "/api/v1/join-tokens").json()["token"]
        body = json.dumps({"token": token, "name": "n", "public_key": public_key(key)}).encode()
        self._signer = Signer(public_key(key), key)
        self._signer = Signer(self.signed("POST", "/api/v1/node/join", body).json()["node"], key)

    def ask(self, method: str, path: str, body: bytes = b"", **request: Any) -> httpx.Response:
        """A person's request."""
        headers = {"Authorization": f"Bearer {self.token}", **request.pop("headers", {})}
        return self._runner.run(self._client.request(method, path, content=body, headers=headers, **request))

    def signed(self, method: str, path: str, body: bytes) -> httpx.Response:
        """A node's request."""
        signature = sign(self._signer, RequestHead(method, path, "", {}), hashlib.sha256(body).digest(), time.time())
        return self._runner.run(self._client.request(method, path, content=body, headers=signature))


@pytest.fixture(scope="module")
def knocker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knocker]:
    """Somebody who knocks at every door."""
    with asyncio.Runner() as runner:
        made = Knocker(tmp_path_factory.mktemp("fuzzed"), runner)
        yield made
        made.opened.context.store.close()
        if made.opened.lock is not None:
            made.opened.lock.close()


def _known(document: Any) -> Any:
    """The description without patterns that Python's regular expressions do not have."""
    if isinstance(document, dict):
        kept = {key: _known(value) for key, value in document.items()}
        return {key: value for key, value in kept.items() if key != "pattern" or "\\p{" not in str(value)}
    return [_known(each) for each in document] if isinstance(document, list) else document


def test_any_request_to_any_path_is_answered_without_an_error_of_ours(knocker: Knocker) -> None:
    """Every operation of the OpenAPI description, with what its schemas allow and what they do not."""
    schema = schemathesis.openapi.from_dict(_known(knocker.app.openapi()))
    answers: Counter[int] = Counter()
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 40
    for operation in operations:

        @given(case=operation.as_strategy(), other=trees, key=st.text("abc", min_size=8, max_size=12))
        @settings(CALM, max_examples=EXAMPLES // 4)
        def meet(case: Any, other: Any, key: str) -> None:
            written = case.body if isinstance(case.body, dict | list) else other
            body = b"" if case.method in ("GET", "HEAD") else json.dumps(written).encode()
            if "/node/" in case.formatted_path:
                reply = knocker.signed(case.method, case.formatted_path, body)
            else:
                query = {name: str(value) for name, value in dict(case.query or {}).items()}
                headers = {"Idempotency-Key": key}
                reply = knocker.ask(case.method, case.formatted_path, body, headers=headers, params=query)
            answers[reply.status_code] += 1
            assert reply.status_code < 500, f"{case.method} {case.formatted_path} {body!r:.300}: {reply.text}"
            if reply.status_code >= 400 and reply.content:
                assert reply.headers["content-type"].startswith(("application/problem+json", "text/html"))

        meet()
    print(f"\nfuzzed: {len(operations)} operations, {sum(answers.values())} requests, {dict(sorted(answers.items()))}")
    assert answers[200] and answers[400] and answers[404]


@given(st.text(max_size=300), st.text(max_size=300))
@CALM
def test_any_signature_is_refused(signature: str, given_input: str) -> None:
    key = public_key(generate_key())
    head = RequestHead("POST", "/x", "", {"Signature": signature, "Signature-Input": given_input})
    with pytest.raises(FoedusError) as refusal:
        verify_head(Verifier(lambda _: (key,), Nonces(), 0.0), head, time.time())
    assert refusal.value.http_status == 401
