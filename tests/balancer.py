"""A load balancer for tests: every connection goes to the next replica that takes it, as a round robin does."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator

PIECE = 1 << 16


class Balancer:
    """Listens on ``port`` of loopback; ``replicas`` are ports, and may change at any time."""

    def __init__(self, replicas: list[int]) -> None:
        self.replicas = replicas
        self._turns = itertools.count()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

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
        with client:
            for port in self._in_turn():
                try:
                    replica = socket.create_connection(("127.0.0.1", port), timeout=5)
                except OSError:
                    continue
                with replica:
                    replica.settimeout(None)
                    back = threading.Thread(target=_pump, args=(replica, client), daemon=True)
                    back.start()
                    _pump(client, replica)
                    back.join()
                return

    def _in_turn(self) -> Iterator[int]:
        replicas = list(self.replicas)
        first = next(self._turns)
        return (replicas[(first + step) % len(replicas)] for step in range(len(replicas)))


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Bytes one way until the source has no more, or the target takes none."""
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE):
            target.sendall(piece)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_WR if end is target else socket.SHUT_RD)
