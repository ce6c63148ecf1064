"""A small web server on 127.0.0.1 for the demo: prints its port, ends when its stdin closes.

    python server.py FOLDER

Serves the folder with keep-alive. `/forbidden/...` answers 403, `/private/NAME` sends the file with
`X-Robots-Tag: noai`; what is not there is a 404.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Serves files, and refuses what it should refuse."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer one request."""
        if self.path.startswith("/forbidden/"):
            self.send_error(403)
            return
        super().do_GET()

    def translate_path(self, path: str) -> str:
        """The file that a URL means."""
        return super().translate_path(path.replace("/private/", "/", 1))

    def end_headers(self) -> None:
        """Add what goes with every answer."""
        if self.path.startswith("/private/"):
            self.send_header("X-Robots-Tag", "noai")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet: the terminal belongs to the download."""


class Server(ThreadingHTTPServer):
    """Takes a burst of connections, and does not mind when one goes away."""

    request_queue_size = 512
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


def end_with_parent() -> None:
    """Leave when stdin closes, as it does when the parent is gone."""
    while os.read(0, 1024):
        pass
    os._exit(0)


def main(folder: str) -> None:
    """Serve `folder` until the parent is gone."""
    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(Path(folder).resolve())))
    threading.Thread(target=end_with_parent, daemon=True).start()
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
