"""Many nodes in one process: each with its key and its signed long poll, on a connection of its own."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
from pydantic import BaseModel

from benchmarks.peer import BOOT, hello
from foedus.wire.http import API
from foedus.wire.messages import Joined, JoinNode, Poll, Welcome, Work
from foedus.wire.signing import RequestHead, Signer, generate_key, public_key, sign

Reply = TypeVar("Reply", bound=BaseModel)
AT_ONCE = 20
"""Nodes that join at a time."""


class Crowd:
    """Nodes that have joined and said hello."""

    def __init__(self, client: httpx.AsyncClient, signers: list[Signer]) -> None:
        self._client, self._signers = client, signers
        self._polls: list[asyncio.Task[float]] = []

    async def poll(self) -> None:
        """Open every node's long poll, and wait until all are open."""
        self._polls = [asyncio.create_task(self._until_work(signer)) for signer in self._signers]
        await asyncio.sleep(5)

    async def assignments(self, count: int) -> list[float]:
        """When the first ``count`` assignments came, on the performance counter."""
        found = []
        for done in asyncio.as_completed(self._polls):
            found.append(await done)
            if len(found) == count:
                break
        for poll in self._polls:
            poll.cancel()
        await asyncio.gather(*self._polls, return_exceptions=True)
        return sorted(found)

    async def _until_work(self, signer: Signer) -> float:
        while True:
            work = await post(self._client, signer, "/node/poll", Poll(boot=BOOT, wait=60), Work)
            if work.assignments:
                return time.perf_counter()


@asynccontextmanager
async def gather(url: str, tokens: list[str]) -> AsyncIterator[Crowd]:
    """A node for each join token."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as client:
        gate = asyncio.Semaphore(AT_ONCE)
        joining = (_join(client, gate, f"n{at:04d}", token) for at, token in enumerate(tokens))
        yield Crowd(client, list(await asyncio.gather(*joining)))


async def _join(client: httpx.AsyncClient, gate: asyncio.Semaphore, name: str, token: str) -> Signer:
    private = generate_key()
    public = public_key(private)
    async with gate:
        message = JoinNode(token=token, name=name, public_key=public)
        joined = await post(client, Signer(public, private), "/node/join", message, Joined)
        signer = Signer(joined.node, private)
        await post(client, signer, "/node/hello", hello(name), Welcome)
    return signer


async def post(client: httpx.AsyncClient, signer: Signer, path: str, message: BaseModel, reply: type[Reply]) -> Reply:
    """One signed request."""
    content, headers = message.model_dump_json().encode(), {"Content-Type": "application/json"}
    head = RequestHead("POST", API + path, "", headers)
    headers |= sign(signer, head, hashlib.sha256(content).digest(), time.time())
    answer = await client.post(API + path, content=content, headers=headers)
    answer.raise_for_status()
    return reply.model_validate_json(answer.content)
