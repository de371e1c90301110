"""A plain HTTP file server, to set the coordinator beside: ``python -m benchmarks.fileserver DIR``, GET and PUT."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


class Handler(SimpleHTTPRequestHandler):
    """The standard library's server of files, with PUT."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Write the body to a file."""
        left = int(self.headers["Content-Length"])
        with Path(self.translate_path(self.path)).open("wb") as file:
            while left:
                piece = self.rfile.read(min(CHUNK, left))
                file.write(piece)
                left -= len(piece)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """In large pieces."""
        shutil.copyfileobj(source, outputfile, CHUNK)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main(folder: str) -> None:
    """Serve ``folder`` on a free port of 127.0.0.1, which is printed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
