"""A node's connection to its coordinator: outbound only, every request signed anew, waits instead of giving up.

A coordinator that is down is no error for a node. What fails in passing (no answer, 429, 5xx) is tried again after an
exponential wait with full jitter, and not before a ``Retry-After``. Free of torch.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from foedus.domain.errors import FoedusError, UnreachableError
from foedus.wire.http import (
    API,
    LASTING,
    PROBLEM_LIMIT,
    Retry,
    backoff,
    check_url,
    from_problem,
    from_status,
    is_loopback,
    malformed,
    refuses,
    transient,
)
from foedus.wire.signing import RequestHead, Signer, sign
from foedus.wire.tls import Trust, broken, client_context, load

REPLY_LIMIT = 16 << 20
"""The largest reply that is not a blob, in bytes."""

CONNECT, IDLE = 10.0, 60.0
"""Seconds for a connection, and for which no byte may move."""

PAUSE_LIMIT = 300.0
"""The longest ``Retry-After`` that is obeyed, in seconds."""

NO_TRUST = Trust()
PATIENT = Retry(base=0.1, cap=3.0)

Reply = TypeVar("Reply", bound=BaseModel)
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A reply that was read to its end."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def passing(error: FoedusError) -> bool:
    """Whether an error is the coordinator's trouble of the moment, and waiting may help."""
    return transient(error) or (error.http_status >= 500 and error.code not in LASTING)


class Link:
    """The connection of one node.

    Raises:
        ConfigError: ``url_malformed``. AccessError: ``tls_required``.
    """

    def __init__(self, url: str, signer: Signer, retry: Retry = PATIENT, trust: Trust = NO_TRUST) -> None:
        self.url = check_url(url)
        self._trust, self._context = trust, client_context(self.url, trust)
        self.signer = signer
        self._retry = retry
        self._answers: bool | None = None
        self.answered: float | None = None
        """When the coordinator last answered rightly, in Unix seconds."""
        self._not_before = 0.0
        parts = urlsplit(self.url)
        self._base = parts.path + API
        self._client = httpx.AsyncClient(
            base_url=f"{parts.scheme}://{parts.netloc}",
            headers={"Accept-Encoding": "identity"},
            verify=self._context,
            # A proxy from the environment cannot reach what listens on this machine alone.
            trust_env=not is_loopback(parts.hostname or ""),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(self, path: str, message: BaseModel, reply: type[Reply], wait: float = 0.0) -> Reply:
        """POST a message, one attempt; the coordinator may take ``wait`` seconds longer than usual to answer.

        Raises:
            FoedusError: the coordinator's own error, or an :class:`UnreachableError`.
        """
        content, headers = message.model_dump_json().encode(), {"Content-Type": "application/json"}
        return self.parsed(reply, (await self.send("POST", path, content, headers, wait)).content)

    async def send(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None, wait: float = 0.0
    ) -> Answer:
        """One attempt with raw bytes.

        Raises:
            FoedusError: as :meth:`post`.
        """
        async with self.stream(method, path, content, headers, wait) as response:
            return Answer(response.status_code, response.headers, await self._read(response, REPLY_LIMIT))

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None, wait: float = 0.0
    ) -> AsyncIterator[httpx.Response]:
        """One attempt, signed now, whose reply is read by the caller; errors on the way become ours."""
        target, sent = self._base + path, dict(headers or {})
        head = RequestHead(method, target, "", sent)
        sent |= sign(self.signer, head, hashlib.sha256(content).digest(), time.time())
        timeout = httpx.Timeout(IDLE, connect=CONNECT, read=IDLE + wait)
        try:
            async with self._client.stream(method, target, content=content, headers=sent, timeout=timeout) as response:
                if refuses(response.status_code, path):
                    raise await self._refusal(method, response)
                self._heard()
                self.answered = round(time.time(), 1)
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._broken(error) from error

    async def retried(self, attempt: Callable[[], Awaitable[Result]], attempts: int | None = None) -> Result:
        """What ``attempt`` returns, tried again after passing errors: for ever, or so many times in all."""
        failures = 0
        while True:
            try:
                return await attempt()
            except FoedusError as error:
                failures += 1
                if not passing(error) or failures == attempts:
                    raise
                await self.pause(error, failures)

    async def pause(self, error: FoedusError, failures: int) -> None:
        """Wait after so many failures in a row, the last of them ``error``; said once until there is an answer."""
        if self._answers is not False:
            _log.warning("waiting for the coordinator: %s", error)
            self._answers = False
        # Signatures tell time in whole seconds, so a coordinator that has just started takes ours from the next one on.
        asked = 1.0 if error.code == "signature_expired" else self._not_before - time.monotonic()
        await asyncio.sleep(max(backoff(self._retry, failures, random.random()), asked))

    def parsed(self, reply: type[Reply], content: bytes) -> Reply:
        """The message in ``content``.

        Raises:
            UnreachableError: ``answer_malformed``.
        """
        try:
            return reply.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "the whole"
            raise malformed(self.url, f"A {reply.__name__} was expected; {place}: {first['msg']}.") from error

    def _heard(self) -> None:
        if self._answers is False:
            _log.info("the coordinator at %s answers again", self.url)
        self._answers = True

    async def _refusal(self, method: str, response: httpx.Response) -> FoedusError:
        status, after = response.status_code, response.headers.get("retry-after", "")
        if after.isascii() and after.isdigit():
            self._not_before = time.monotonic() + min(float(after[:9]), PAUSE_LIMIT)
        if method == "HEAD":
            return from_status(status, self.url)
        body = await self._read(response, PROBLEM_LIMIT)
        return from_problem(status, response.headers.get("content-type", ""), body, self.url)

    async def _read(self, response: httpx.Response, limit: int) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > limit:
                raise malformed(self.url, f"It is longer than {limit} bytes.")
        return bytes(content)

    def _broken(self, error: httpx.HTTPError | httpx.InvalidURL) -> UnreachableError:
        """The error to tell; the files of certificates may have changed, so that the next connection fares better."""
        found = broken(self.url, error)
        if found.code == "tls_failed" and isinstance(self._context, ssl.SSLContext):
            load(self._context, self._trust)
        return found
