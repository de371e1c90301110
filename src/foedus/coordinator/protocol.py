"""HTTP as uvicorn speaks it, with a limit on what a stranger can have it remember before anybody knows who asks.

uvicorn's fast parser keeps the target, headers and trailers of a request whatever their length; nothing else does.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from foedus.domain.errors import TooLargeError
from foedus.wire.http import PROBLEM_TYPE, to_problem

HEAD_LIMIT = 64 << 10
"""Bytes that may arrive without a request's head, a piece of its body or its end being complete."""


class BoundedHttp(HttpToolsProtocol):
    """Refuses a request whose target, headers, trailers or chunk extensions go on and on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unfinished = 0

    def data_received(self, data: bytes) -> None:
        """Parse, then count what completed nothing."""
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > HEAD_LIMIT and not self.transport.is_closing():
            self._refuse()

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._unfinished = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body is complete."""
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._unfinished = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        error = TooLargeError(
            "head_too_large", f"The request's head is larger than {HEAD_LIMIT} bytes.", "", "Send less."
        )
        body = to_problem(error).model_copy(update={"status": 431}).model_dump_json().encode()
        head = f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: {PROBLEM_TYPE}\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()
