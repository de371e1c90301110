"""Many nodes in one process: each with its key, and its signed requests one after another on a connection of its own.

A node here does what a node does on the wire and nothing else: it joins, says hello, polls, uploads an update that was
made beforehand, and contributes. HTTP is spoken by hand, so that the crowd takes as little of the processor as it can.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from benchmarks.payload import model
from benchmarks.peer import BOOT, hello
from foedus.domain.codec import encode
from foedus.domain.tree import State
from foedus.wire.http import API
from foedus.wire.messages import Accepted, Assignment, Contribute, Joined, JoinNode, Poll, Welcome, Work
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import RequestHead, Signer, sign

Reply = TypeVar("Reply", bound=BaseModel)
AT_ONCE = 20
"""Nodes that join at a time."""

JSON, BYTES = "application/json", "application/octet-stream"


class Refused(SystemExit):
    """A reply that is no 503: it ends the benchmark, unless it says that others were faster (409)."""

    def __init__(self, asked: str, status: int, body: bytes) -> None:
        super().__init__(f"{asked}: {status} {body[:300]!r}")
        self.status = status


@dataclass
class Line:
    """One connection, opened when it is needed. ``away`` counts how often the coordinator was too busy or gone."""

    host: str
    port: int
    away: int = 0
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, signer: Signer, method: str, path: str, content: bytes, kind: str = JSON) -> bytes:
        """A signed request and its reply; tried again while the coordinator is away or sends us away."""
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                status, headers, body = await self._once(signer, method, path, content, kind)
                if status == 503:
                    self.away += 1
                    await asyncio.sleep(float(headers.get(b"retry-after", b"1")))
                    continue
                if b"signature_expired" not in body:
                    if status >= 400:
                        raise Refused(f"{method} {path}", status, body)
                    return body
            self.close()
            self.away += 1
            await asyncio.sleep(0.5)

    async def _once(
        self, signer: Signer, method: str, path: str, content: bytes, kind: str
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        headers = {"Content-Type": kind}
        head = RequestHead(method, API + path, "", headers)
        headers |= sign(signer, head, hashlib.sha256(content).digest(), time.time())
        headers |= {"Host": f"{self.host}:{self.port}", "Content-Length": str(len(content))}
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.streams
        lines = [f"{method} {API}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + content)
        first, *rest = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(b": ") for line in rest)}
        return int(first.split()[1]), found, await reader.readexactly(int(found.get(b"content-length", b"0")))

    def close(self) -> None:
        """Hang up."""
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


@dataclass
class Node:
    """A node that has joined; ``told`` are its assignments: (run, round, when it was told, when it had contributed)."""

    name: str
    signer: Signer
    line: Line
    update: bytes = b""
    told: list[tuple[str, int, float, float]] = field(default_factory=list)

    async def post(self, path: str, message: BaseModel, reply: type[Reply]) -> Reply:
        """One message."""
        return reply.model_validate_json(
            await self.line.ask(self.signer, "POST", path, message.model_dump_json().encode())
        )

    async def poll(self, wait: float) -> Work:
        """One poll."""
        return await self.post("/node/poll", Poll(boot=BOOT, wait=wait), Work)

    async def serve(self) -> None:
        """Poll and contribute, and stay away for as long as it is told, until this is cancelled."""
        while True:
            work = await self.poll(50)
            for ask in work.assignments:
                at = time.time()
                if await self._contribute(ask):
                    self.told.append((ask.run, ask.round, at, time.time()))
            if work.then != "poll":
                await asyncio.sleep(work.seconds)

    async def _contribute(self, ask: Assignment) -> bool:
        """Whether it was taken; a lease that ran out on the way is not, and the next poll tells the work again."""
        digest = hashlib.sha256(self.update).hexdigest()
        await self.line.ask(self.signer, "PUT", f"/blobs/{digest}", self.update, BYTES)
        weights, metrics = {"examples": 10.0}, {"loss": 1.0}
        said = Contribute(token=ask.token, update=digest, weights=weights, metrics=metrics, state=None, seconds=0.1)
        try:
            await self.post(f"/node/assignments/{ask.id}/contribute", said, Accepted)
        except Refused as refused:
            if refused.status != 409:
                raise
            return False
        return True


@asynccontextmanager
async def crowd(url: str, tokens: Sequence[str], elements: int) -> AsyncIterator[list[Node]]:
    """A node for each join token, each with an update of its own for a model of so many elements, until the end."""
    nodes = await _gather(url, tokens, elements)
    try:
        yield nodes
    finally:
        for node in nodes:
            node.line.close()
        await asyncio.sleep(0.1)


async def _gather(url: str, tokens: Sequence[str], elements: int) -> list[Node]:
    gate, address = asyncio.Semaphore(AT_ONCE), urlsplit(url)
    like = encode(State({"parameters": model(1, elements, 1)}))

    async def join(at: int, token: str) -> Node:
        name, private = f"n{at:05d}", generate_key()
        public = public_key(private)
        # The last number of an update is its node's, so that no two are the same blob.
        node = Node(name, Signer(public, private), Line(address.hostname or "", address.port or 0))
        node.update = like[:-4] + struct.pack("<f", at / 1e6)
        async with gate:
            joined = await node.post("/node/join", JoinNode(token=token, name=name, public_key=public), Joined)
            node.signer = Signer(joined.node, private)
            await node.post("/node/hello", hello(name), Welcome)
        return node

    return list(await asyncio.gather(*(join(at, token) for at, token in enumerate(tokens))))
