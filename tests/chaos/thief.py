"""A stranger on a port, who answers 200 to whatever is asked."""

from __future__ import annotations

import http.server
import threading
import time


class _Yes(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status": "ok"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """It is silent."""


class Thief:
    """Has the port from its making until it goes. Raises OSError when it cannot have it."""

    def __init__(self, port: int) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Yes)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @classmethod
    def at_once(cls, port: int, *, within: float) -> Thief | None:
        """As soon as the port is free; None when somebody else was quicker."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            try:
                return cls(port)
            except OSError:
                continue
        return None

    def go(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
