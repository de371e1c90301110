"""One node that moves a model and trains nothing: ``python -m benchmarks.peer URL NAME FOLDER [JOIN_TOKEN]``.

With a token it is a node of a coordinator: it joins, takes one assignment, downloads the broadcast, uploads an update
of its own and contributes. Without, it does the same with a plain file server. It prints when each way began and ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path

import httpx

import foedus
from benchmarks.payload import BUNDLE, TAG, write_update
from foedus.node.blobs import Cache, upload
from foedus.node.transport import Link
from foedus.wire.messages import (
    Accepted,
    Assignment,
    Contribute,
    DatasetView,
    Hello,
    Joined,
    JoinNode,
    PlanApproval,
    Poll,
    Welcome,
    Work,
)
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.signing import Signer

BOOT = "benchmark-boot"
CHUNK = 1 << 20
LIMIT = 4 << 30


async def with_coordinator(url: str, name: str, folder: Path, token: str) -> dict[str, float]:
    """Join, wait for one assignment, and move its bytes."""
    private = generate_key()
    public = public_key(private)
    async with Link(url, Signer(public, private)) as link:
        joined = await link.post("/node/join", JoinNode(token=token, name=name, public_key=public), Joined)
    async with Link(url, Signer(joined.node, private)) as link:
        await link.post("/node/hello", hello(name), Welcome)
        ask = await _assignment(link)
        times = {"down": time.time()}
        cache = Cache(folder / "cache", LIMIT, LIMIT)
        for digest in ask.broadcast.values():
            await cache.fetch(link, digest, lambda: None)
        times["down_end"] = times["up"] = time.time()
        update = await upload(link, folder / "update", lambda: None)
        message = Contribute(
            token=ask.token, update=update, weights={"examples": 10.0}, metrics={"loss": 1.0}, state=None, seconds=0.1
        )
        times["up_end"] = time.time()
        await link.post(f"/node/assignments/{ask.id}/contribute", message, Accepted)
    return times


def hello(name: str) -> Hello:
    """A node with one dataset, whose owner has approved the benchmark's plan."""
    return Hello(
        boot=BOOT,
        version=foedus.__version__,
        datasets=(DatasetView(client=name, tags=(TAG,), examples=10),),
        approvals=(PlanApproval(digest=BUNDLE.digest, state="approved"),),
    )


async def _assignment(link: Link) -> Assignment:
    while True:
        work = await link.post("/node/poll", Poll(boot=BOOT), Work, 25.0)
        if work.assignments:
            return work.assignments[0]


async def with_file_server(url: str, name: str, folder: Path) -> dict[str, float]:
    """Download ``model``, upload the update under the node's name; both are hashed, as a node does."""
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        times = {"down": time.time()}
        async with client.stream("GET", "/model") as response:
            with (folder / "model").open("wb") as file:
                async for piece in response.aiter_raw():
                    file.write(piece)
        await asyncio.to_thread(_sha256, folder / "model")
        times["down_end"] = times["up"] = time.time()
        path = folder / "update"
        await asyncio.to_thread(_sha256, path)
        with path.open("rb") as file:
            headers = {"Content-Length": str(path.stat().st_size)}
            await client.put(f"/{name}", content=_pieces(path), headers=headers)
        times["up_end"] = time.time()
    return times


async def _pieces(path: Path):  # type: ignore[no-untyped-def]
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(url: str, name: str, folder: str, token: str = "") -> None:
    """Make the update, say so, wait for a line on stdin, move, and print the times as JSON."""
    place = Path(folder)
    if not (place / "update").exists():
        write_update(place / "update", name)
    print("ready", flush=True)
    sys.stdin.readline()
    moving = with_coordinator(url, name, place, token) if token else with_file_server(url, name, place)
    print(json.dumps(asyncio.run(moving)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
