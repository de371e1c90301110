"""A proxy before PostgreSQL that breaks one connection at its COMMIT: before it is sent on, or before its answer is.

What a client then knows is the same, and what the database did is not: the outcome of the transaction is unknown.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Literal

When = Literal["before", "after"]
COMMIT = b"COMMIT\0"
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset, as a crash or a firewall would."""


class CommitCutter:
    """Listens on ``port`` and passes everything on; :meth:`arm` says which COMMIT is cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._armed: tuple[When, bytes] | None = None
        self._lock = threading.Lock()
        self.cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, when: When, statement: bytes) -> None:
        """Cut the COMMIT of the next transaction with this statement ``before`` PostgreSQL sees it, or ``after``."""
        self.cut.clear()
        with self._lock:
            self._armed = (when, statement)

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        quiet, answered = threading.Event(), threading.Event()
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            down = threading.Thread(target=self._down, args=(client, server, quiet, answered), daemon=True)
            down.start()
            self._up(client, server, quiet, answered)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            down.join()
        if quiet.is_set():
            self.cut.set()

    def _up(
        self, client: socket.socket, server: socket.socket, quiet: threading.Event, answered: threading.Event
    ) -> None:
        said = b""
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                said += piece
                if piece.endswith(COMMIT):
                    if when := self._take(said):
                        quiet.set()
                        if when == "after":
                            server.sendall(piece)
                            answered.wait(120)  # it is done, and its answer goes nowhere
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                        return
                    said = b""
                server.sendall(piece)

    def _down(
        self, client: socket.socket, server: socket.socket, quiet: threading.Event, answered: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := server.recv(65536):
                if quiet.is_set():
                    answered.set()
                else:
                    client.sendall(piece)
        if not quiet.is_set():
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _take(self, said: bytes) -> When | None:
        with self._lock:
            if self._armed is None or self._armed[1] not in said:
                return None
            (when, _), self._armed = self._armed, None
            return when
