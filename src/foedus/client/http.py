"""A person's connection to the coordinator: bearer token, TLS rule, problems as errors, bounded retries with jitter.

All of :mod:`foedus.client` speaks through it. Every request may be sent twice: GET, HEAD and PUT are idempotent, and a
POST carries an ``Idempotency-Key`` that its retries repeat.
"""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from foedus.domain.errors import AccessError, FoedusError, UsageError
from foedus.wire.http import (
    API,
    IDEMPOTENCY_KEY,
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
from foedus.wire.tls import broken, client_context, trust_of_environment

REPLY_LIMIT = 64 << 20
"""The largest reply that is not a blob, in bytes."""

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""Idle limits in seconds: how long no byte may move."""

ID = re.compile(r"[a-z]{1,4}_[0-9a-z]{1,40}")
TOKEN = re.compile(r"[!-~]{1,200}")

Reply = TypeVar("Reply", bound=BaseModel)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """A reply that was read to its end."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Connection:
    """A connection to the coordinator at ``url`` for the person whose API token is ``token``.

    Raises:
        ConfigError: ``url_malformed``.
        AccessError: ``tls_required`` or ``token_malformed``.
    """

    def __init__(self, url: str, token: str, retry: Retry | None = None) -> None:
        self.url = check_url(url)
        if not TOKEN.fullmatch(token):
            raise AccessError("token_malformed", "This is not an API token.", "", "Give the token as it was shown.")
        self.retry = retry or Retry()
        self._client = httpx.Client(
            base_url=self.url + API,
            headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"},
            timeout=TIMEOUT,
            verify=client_context(self.url, trust_of_environment()),
            # A proxy from the environment cannot reach what listens on this machine alone.
            trust_env=not is_loopback(urlsplit(self.url).hostname or ""),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets."""
        self._client.close()

    def get(self, path: str, reply: type[Reply]) -> Reply:
        """GET a message.

        Raises:
            FoedusError: the coordinator's own error, or an :class:`UnreachableError`.
        """
        return self.retried(lambda: self._message("GET", path, reply))

    def post(self, path: str, reply: type[Reply], message: BaseModel | None = None) -> Reply:
        """POST a message, once: retries repeat its Idempotency-Key.

        Raises:
            FoedusError: the coordinator's own error, or an :class:`UnreachableError`.
        """
        headers = {IDEMPOTENCY_KEY: uuid.uuid4().hex}
        content = b""
        if message is not None:
            content = message.model_dump_json().encode()
            headers["Content-Type"] = "application/json"
        return self.retried(lambda: self._message("POST", path, reply, headers=headers, content=content))

    def send(self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One attempt with raw bytes; the reply's status, headers and body."""
        with self.stream(method, path, content, headers) as response:
            return Answer(response.status_code, response.headers, _read(response, REPLY_LIMIT, self.url))

    @contextmanager
    def stream(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """One attempt whose reply is read by the caller; errors on the way become ours."""
        try:
            with self._client.stream(method, path, content=content, headers=headers) as response:
                if response.status_code >= 300 and method == "HEAD":
                    raise from_status(response.status_code, self.url)
                if refuses(response.status_code, path):
                    body = _read(response, PROBLEM_LIMIT, self.url)
                    raise from_problem(response.status_code, response.headers.get("content-type", ""), body, self.url)
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise broken(self.url, error) from error

    def retried(self, attempt: Callable[[], Result]) -> Result:
        """What ``attempt`` returns, tried again after transient errors as often as ``retry`` says."""
        for failures in range(1, self.retry.attempts):
            try:
                return attempt()
            except FoedusError as error:
                if not transient(error):
                    raise
            self.wait(failures)
        return attempt()

    def wait(self, failures: int) -> None:
        """Sleep after so many failures in a row."""
        time.sleep(backoff(self.retry, failures, random.random()))

    def _message(
        self,
        method: str,
        path: str,
        reply: type[Reply],
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> Reply:
        return parse(reply, self.send(method, path, content, headers).content, self.url)


def identified(kind: str, identity: str) -> str:
    """``identity`` if it is one, and so may stand in a path.

    Raises:
        UsageError: ``id_malformed``.

    >>> identified("run", "r_1")
    'r_1'
    """
    if ID.fullmatch(identity):
        return identity
    why = "An id is a few letters, an underscore and letters or digits."
    raise UsageError("id_malformed", f"{identity[:60]!a} is not a {kind}'s id.", why, f"List the {kind}s first.")


def parse(reply: type[Reply], content: bytes, url: str) -> Reply:
    """The message in ``content``.

    Raises:
        UnreachableError: ``answer_malformed``.
    """
    try:
        return reply.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise malformed(url, f"A {reply.__name__} was expected; {place}: {first['msg']}.") from error


def _read(response: httpx.Response, limit: int, url: str) -> bytes:
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > limit:
            raise malformed(url, f"It is longer than {limit} bytes.")
    return bytes(content)
